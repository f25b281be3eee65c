"""The JSON patch (RFC 6902) from one object to another, quickly where the two share most.

jsonpatch finds the operations. It serialises and copies every value on the way, which takes ten
times as long as all else that is done for a pod; so it is shown stand-ins for those values that
it need not look into: what both objects share, and what is wholly new.
"""

from __future__ import annotations

from typing import Any

import jsonpatch

from injector.model import Object

Operation = dict[str, Any]
_LONE = "\udfff"


class _StandIn(str):
    """A short text in place of a value; never seen outside this module.

    It begins with half a character (a lone surrogate), so that no text that was decoded from
    UTF-8 is ever taken for one.
    """

    __slots__ = ()


def diff(before: Object, after: Object) -> list[Operation]:
    """The operations that make ``before`` into ``after``; none where they are equal."""
    if before is after:
        return []
    hidden: list[Any] = []
    reduced = _reduce(before, after, hidden)
    operations: list[Operation] = jsonpatch.make_patch(*reduced).patch
    for operation in operations:
        if isinstance(operation.get("value"), _StandIn):
            operation["value"] = hidden[_number(operation["value"])]
    return operations


def _hide(value: Any, hidden: list[Any]) -> _StandIn:
    hidden.append(value)
    return _StandIn(f"{_LONE}{len(hidden) - 1}")


def _number(stand_in: _StandIn) -> int:
    return int(stand_in.removeprefix(_LONE))


def _reduce(before: Object, after: Object, hidden: list[Any]) -> tuple[Object, Object]:
    """Both objects, without the members that are one and the same in both, and with stand-ins
    for members that only ``after`` has."""
    left, right = dict(before), dict(after)
    for key, new in after.items():
        if key not in before:
            right[key] = _hide(new, hidden)
        elif (old := before[key]) is new:
            del left[key], right[key]
        elif isinstance(old, dict) and isinstance(new, dict):
            left[key], right[key] = _reduce(old, new, hidden)
        elif isinstance(old, list) and isinstance(new, list):
            left[key], right[key] = _reduce_lists(old, new, hidden)
    return left, right


def _name(item: Any) -> str | None:
    name = item.get("name") if isinstance(item, dict) else None
    return name if isinstance(name, str) else None


def _reduce_lists(
    before: list[Any], after: list[Any], hidden: list[Any]
) -> tuple[list[Any], list[Any]]:
    """Both lists with stand-ins: for items that are one and the same in both, and for named ones
    (containers, volumes) that are new. Others are left to be looked into."""
    kept = {id(item) for item in before} & {id(item) for item in after if isinstance(item, dict)}
    shared = {id(item): _hide(item, hidden) for item in before if id(item) in kept}
    names = {_name(item) for item in before}

    def stand_in(item: Any) -> Any:
        if id(item) in shared:
            return shared[id(item)]
        return item if _name(item) in (None, *names) else _hide(item, hidden)

    return [shared.get(id(item), item) for item in before], [stand_in(item) for item in after]
