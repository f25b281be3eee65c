"""Reads environment variables from an annotation, as strictly as the API server will.

One bad variable on a namespace would be refused with every pod that it is handed down to; so
whatever is not certain to be taken is left out, with a warning.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec

from vocabulary.annotations.parse import BadItems, BadValue, shortened

_EXPECTED = 'a JSON list of EnvVars, such as [{"name": "KEY", "value": "text"}]'
LONGEST = 64 * 1024
"""Characters of the whole list that are read."""
_MOST_VARIABLES = 256
_NAME = re.compile(r"[ -<>-~]+", re.ASCII)
"""Printable ASCII without ``=``: what the API server accepts."""


def _text(pattern: str, longest: int = 253) -> msgspec.Meta:
    return msgspec.Meta(pattern=f"^(?:{pattern})\\Z", max_length=longest)


_KEY = _text(r"[-._a-zA-Z0-9]+")
_OBJECT = _text(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_QUALIFIED = r"([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?"
_FIELD = _text(
    r"metadata\.(name|namespace|uid)|spec\.(nodeName|serviceAccountName)"
    r"|status\.(hostIP|hostIPs|podIP|podIPs)"
    rf"|metadata\.(labels|annotations)\['{_QUALIFIED}'\]",
    400,
)
_RESOURCE = _text(r"(limits|requests)\.(cpu|memory|ephemeral-storage)")
_DIVISOR = _text(r"0|1|1m|1[kMGTPE]|1[KMGTPE]i")


class _Source(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """Base: camelCase, and nothing that is not known."""


class _FieldRef(_Source):
    field_path: Annotated[str, _FIELD]
    api_version: Annotated[str, _text("v1")] = "v1"


class _ResourceRef(_Source):
    resource: Annotated[str, _RESOURCE]
    container_name: str = ""
    divisor: Annotated[str, _DIVISOR] = "0"


class _KeyRef(_Source):
    name: Annotated[str, _OBJECT]
    key: Annotated[str, _KEY]
    optional: bool = False


_SOURCES: dict[str, type[_Source]] = {
    "fieldRef": _FieldRef,
    "resourceFieldRef": _ResourceRef,
    "configMapKeyRef": _KeyRef,
    "secretKeyRef": _KeyRef,
}


def _is_source(tree: Any) -> bool:
    if not isinstance(tree, dict) or len(tree) != 1:
        return False
    ((kind, reference),) = tree.items()
    if kind not in _SOURCES:
        return False
    try:
        msgspec.convert(reference, _SOURCES[kind])
    except msgspec.ValidationError:
        return False
    return True


def _is_env(item: Any) -> bool:
    if not isinstance(item, dict) or not item.keys() <= {"name", "value", "valueFrom"}:
        return False
    name, value = item.get("name"), item.get("value", "")
    if not isinstance(name, str) or not _NAME.fullmatch(name) or not isinstance(value, str):
        return False
    return "valueFrom" not in item or (not value and _is_source(item["valueFrom"]))


def parse_env(text: str) -> list[dict[str, Any]]:
    """A JSON list of EnvVars (core/v1), each with a name and a value or one ``valueFrom``.

    Raises:
        BadItems: names each bad item, and holds the good ones.
        BadValue: the text is not a JSON list at all.
    """
    try:
        # The others are checked as JSON, and never become objects that the collector walks.
        raw = msgspec.json.decode(text, type=list[msgspec.Raw])
        items = [msgspec.json.decode(item) for item in raw[:_MOST_VARIABLES]]
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise BadValue(_EXPECTED) from None
    good: list[dict[str, Any]] = []
    bad: list[str] = []
    for number, item in enumerate(items, start=1):
        if _is_env(item):
            good.append(item)
        else:
            bad.append(_called(number, item))
    if len(raw) > _MOST_VARIABLES:
        bad.append(f"all after the first {_MOST_VARIABLES}")
    if bad:
        raise BadItems(_EXPECTED, tuple(bad), good)
    return good


def _called(number: int, item: Any) -> str:
    """How a bad variable is called in a warning: never by its value, which may be a secret, nor by
    what stands behind a ``=`` in its name."""
    name = item.get("name") if isinstance(item, dict) else None
    text = name.partition("=")[0] if isinstance(name, str) else ""
    return f"variable {shortened(text)}" if text else f"item {number}"
