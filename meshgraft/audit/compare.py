"""Where a part of a live object differs from what it should be, blind to what the API server did.

The live object may say more (defaults, what other admission plugins added), leave out what is
zero or empty, and write amounts in another way; none of that is a difference. Source: Kubernetes
API conventions, "Defaulting"; "Resource quantity" (canonical form).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vocabulary.annotations import BadValue, parse_quantity

_KEYS = ("name", "mountPath", "containerPort")
"""By which of its members an item of a list is told apart, the first that all items have and no
two of a list share: a volume may be mounted twice, a port be there for TCP and UDP."""
_AMOUNTS = ("limits", "requests")


@dataclass(frozen=True, slots=True)
class Difference:
    """One value that differs; ``path`` from the part that was compared. None: not there."""

    path: tuple[str, ...]
    live: Any
    wanted: Any


def differences(live: Any, wanted: Any, path: tuple[str, ...] = ()) -> Iterator[Difference]:
    """What ``wanted`` says and ``live`` does not."""
    if isinstance(wanted, Mapping) and isinstance(live, Mapping | None):
        for key, value in wanted.items():
            yield from differences((live or {}).get(key), value, (*path, key))
    elif isinstance(wanted, list) and isinstance(live, list | None):
        yield from _lists(live or [], wanted, path)
    elif not _same(live, wanted, path):
        yield Difference(path, live, wanted)


def _lists(live: list[Any], wanted: list[Any], path: tuple[str, ...]) -> Iterator[Difference]:
    key = identity(live, wanted)
    if key:
        before = {item[key]: item for item in live}
        for item in wanted:
            yield from differences(before.get(item[key]), item, (*path, f"[{item[key]}]"))
    elif _holds_objects(wanted) and len(live) == len(wanted):
        for number, (old, new) in enumerate(zip(live, wanted, strict=True)):
            yield from differences(old, new, (*path, f"[{number}]"))
    elif live != wanted:
        yield Difference(path, live or None, wanted)


def identity(*lists: Sequence[Any]) -> str | None:
    """The member by which the items of lists are told apart; None where there is none."""
    if not any(lists) or not all(map(_holds_objects, lists)):
        return None
    return next((key for key in _KEYS if all(_tells_apart(key, items) for items in lists)), None)


def _tells_apart(key: str, items: Sequence[Any]) -> bool:
    values = [item.get(key) for item in items]
    return all(isinstance(value, str | int) for value in values) and len({*values}) == len(values)


def _holds_objects(items: Sequence[Any]) -> bool:
    return all(isinstance(item, Mapping) for item in items)


def _same(live: Any, wanted: Any, path: tuple[str, ...]) -> bool:
    if live == wanted or not (live or wanted):
        return True
    return len(path) > 1 and path[-2] in _AMOUNTS and _amount(live) == _amount(wanted)


def _amount(text: Any) -> Any:
    try:
        return parse_quantity(str(text))
    except BadValue:
        return text


def same_image(live: str, wanted: str) -> bool:
    """Whether both name the same image: a mirror's registry before it, or a digest behind it,
    are others' admission policies at work."""
    if "@" not in wanted:
        live = live.partition("@")[0]
    return live == wanted or live.endswith("/" + _without_registry(wanted))


def _without_registry(image: str) -> str:
    first, slash, rest = image.partition("/")
    is_registry = slash and ("." in first or ":" in first or first == "localhost")
    return rest if is_registry else image
