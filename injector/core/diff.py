"""The JSON patch (RFC 6902) from one object to another, found by walking both at once.

Inject adds members and items and changes hardly any, so that the walk finds the operations itself
in a tenth of the time that jsonpatch takes. A list that lost or reordered items is left to
jsonpatch, which knows moves.
"""

from __future__ import annotations

from typing import Any

import jsonpatch

from injector.core.model import Object

Operation = dict[str, Any]


def diff(before: Object, after: Object) -> list[Operation]:
    """The operations that make ``before`` into ``after``; none where they are equal.

    Values are those of ``after`` itself, not copies.
    """
    operations: list[Operation] = []
    _members(before, after, "", operations)
    return operations


def _pointer(path: str, key: str) -> str:
    """The JSON pointer (RFC 6901) of a member."""
    return f"{path}/{key.replace('~', '~0').replace('/', '~1')}"


def _members(before: Object, after: Object, path: str, operations: list[Operation]) -> None:
    if before is after:
        return
    operations.extend(
        {"op": "remove", "path": _pointer(path, key)} for key in before if key not in after
    )
    for key, new in after.items():
        if key not in before:
            operations.append({"op": "add", "path": _pointer(path, key), "value": new})
        elif before[key] is not new:
            _value(before[key], new, _pointer(path, key), operations)


def _value(old: Any, new: Any, path: str, operations: list[Operation]) -> None:
    if isinstance(old, dict) and isinstance(new, dict):
        _members(old, new, path, operations)
    elif isinstance(old, list) and isinstance(new, list):
        _items(old, new, path, operations)
    elif type(old) is not type(new) or old != new:  # 1 is not true, though Python says so
        operations.append({"op": "replace", "path": path, "value": new})


def _items(before: list[Any], after: list[Any], path: str, operations: list[Operation]) -> None:
    counterparts = _aligned(before, after)
    if counterparts is None:
        found: list[Operation] = jsonpatch.make_patch(before, after).patch
        operations.extend(_below(path, operation) for operation in found)
        return
    for index, (is_new, old) in enumerate(counterparts):
        # What came before is in place by now, so that the index is that of ``after``.
        if is_new:
            operations.append({"op": "add", "path": f"{path}/{index}", "value": after[index]})
        elif old is not after[index]:
            _value(old, after[index], f"{path}/{index}", operations)


def _aligned(before: list[Any], after: list[Any]) -> list[tuple[bool, Any]] | None:
    """For each item of ``after`` whether it is new, and else the one that it was; None where
    something of ``before`` is missing or comes in another order."""
    rest = iter(before)
    waiting = next(rest, _NONE)
    counterparts: list[tuple[bool, Any]] = []
    for new in after:
        if waiting is not _NONE and _same(waiting, new):
            counterparts.append((False, waiting))
            waiting = next(rest, _NONE)
        else:
            counterparts.append((True, None))
    return counterparts if waiting is _NONE else None


_NONE = object()


def _same(old: Any, new: Any) -> bool:
    """Whether two items stand for the same thing: of one name (containers, volumes), or equal."""
    if old is new:
        return True
    name = _name(old)
    if name is not None or _name(new) is not None:
        return name == _name(new)
    return type(old) is type(new) and bool(old == new)


def _name(item: Any) -> str | None:
    name = item.get("name") if isinstance(item, dict) else None
    return name if isinstance(name, str) else None


def _below(path: str, operation: Operation) -> Operation:
    pointers = ("path", "from")
    return {key: path + value if key in pointers else value for key, value in operation.items()}
