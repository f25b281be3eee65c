"""Lays flags over the settings, and says as annotations what they changed.

A flag sets the setting that the annotation of the same meaning sets. What differs from the
settings before is written down as annotations (as Linkerd does it), so that the webhook comes to
the same pod.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, get_args, get_origin

import msgspec
import yaml

from injector.core.marks import marks_of
from injector.core.values import BadValues, Values, decode_values
from vocabulary.annotations import (
    ALPHA_PREFIX,
    ANNOTATIONS,
    BY_KEY,
    CLOSE_WAIT_TIMEOUT,
    INJECT,
    NATIVE_SIDECAR,
    PREFIX,
    Annotation,
    BadValue,
    is_unknown,
)
from vocabulary.errors import MeshgraftError

_SAME_NAME = (
    "admin-port",
    "close-wait-timeout",
    "control-port",
    "default-inbound-policy",
    "enable-debug-sidecar",
    "enable-external-profiles",
    "image-pull-policy",
    "inbound-port",
    "opaque-ports",
    "outbound-port",
    "proxy-cpu-limit",
    "proxy-cpu-request",
    "proxy-image",
    "proxy-log-level",
    "proxy-memory-limit",
    "proxy-memory-request",
    "proxy-uid",
    "proxy-version",
    "skip-inbound-ports",
    "skip-outbound-ports",
)
FLAGS: Mapping[str, str] = {
    **{name: PREFIX + name for name in _SAME_NAME},
    "ingress": INJECT,
    "native-sidecar": NATIVE_SIDECAR,
    "proxy-cpu": PREFIX + "proxy-cpu-request",
    "proxy-memory": PREFIX + "proxy-memory-request",
    "require-identity-on-inbound-ports": PREFIX + "proxy-require-identity-inbound-ports",
    "wait-before-exit-seconds": ALPHA_PREFIX + "proxy-wait-before-exit-seconds",
}
"""Linkerd's flags, each with the annotation that means the same."""

OURS = frozenset((PREFIX + "skip-outbound-subnets", PREFIX + "trace-collector"))
"""Annotations that Linkerd does not know."""
_ALWAYS_SAID = (PREFIX + "enable-debug-sidecar", CLOSE_WAIT_TIMEOUT)
"""Linkerd writes these down whenever the flag is there, whatever the settings say."""
_DEBUG_IMAGE = PREFIX + "debug-image"


class BadOverrideError(MeshgraftError, ValueError):
    """A flag cannot be used; the text names it, its value and what is expected."""


class Overrides:
    """Settings under change: what they were, what they are, and what is to be written down."""

    def __init__(self, values: Values) -> None:
        self._base = msgspec.to_builtins(values)
        self._tree = msgspec.to_builtins(values)
        self._said: dict[str, str] = {}
        self.warnings: list[str] = []

    def flag(self, name: str, text: str) -> None:
        """Take one of Linkerd's flags (see `FLAGS`).

        Raises:
            BadOverrideError: the annotation of that meaning could not hold such a value.
        """
        row = BY_KEY[FLAGS[name]]
        value = _parse(row, text, f"--{name}")
        if row.sets is not None and value is not None:
            _put(self._tree, row.sets.split("."), value)
            if row.derives is not None:
                path, derive = row.derives
                _put(self._tree, path.split("."), derive(value))
        if row.key in _ALWAYS_SAID and value:
            self._said[row.key] = _text(row, value)

    def registry(self, prefix: str) -> None:
        """Take the profile's images from another registry: their last part stays."""
        for path in marks_of(self._tree["meshgraft"]["profile"]).images:
            picture = _get(self._tree, [*path.split("."), "image"])
            picture["name"] = f"{prefix.rstrip('/')}/{picture['name'].rpartition('/')[2]}"

    def set(self, assignment: str) -> None:
        """Take a setting in the manner of Helm: ``proxy.logLevel=debug``.

        Raises:
            BadOverrideError: there is no ``=``, or the path leads through a value.
        """
        path, equals, text = assignment.partition("=")
        if not equals or not path:
            raise BadOverrideError(f"--set {assignment}: expected KEY=VALUE")
        kind = _type_of(Values, path.split("."))
        if kind is None:
            self.warnings.append(f"--set {path}: no setting of that name has an effect here")
            return
        try:
            _put(self._tree, path.split("."), _set_value(text, kind))
        except TypeError as error:
            raise BadOverrideError(f"--set {path}: {error}") from None

    def linkerd_namespace(self, name: str) -> None:
        """Say where the control plane is."""
        self._tree["linkerdNamespace"] = name

    @property
    def values(self) -> Values:
        """The settings with everything laid over them.

        Raises:
            BadOverrideError: a setting of the wrong type, or ports that are not four.
        """
        try:
            values = decode_values(self._tree)
        except BadValues as error:
            raise BadOverrideError(str(error)) from error
        ports = values.proxy.ports
        if len({ports.admin, ports.control, ports.inbound, ports.outbound}) < 4:
            raise BadOverrideError(
                "the proxy's admin, control, inbound and outbound ports must be four different"
                f" ones, not {ports.admin}, {ports.control}, {ports.inbound}, {ports.outbound}"
            )
        return values

    @property
    def annotations(self) -> dict[str, str]:
        """What was changed, as annotations by key.

        Raises:
            BadOverrideError: as `values`; a value that its annotation could not hold.
        """
        after = msgspec.to_builtins(self.values)
        found: dict[str, str] = {}
        for row in ANNOTATIONS:
            if row.sets is None or row.hidden_by:
                continue
            path = row.sets.split(".")
            value = _get(after, path)
            if value == _get(self._base, path) or value is None:
                continue
            if row.key.startswith(_DEBUG_IMAGE) and not after["enableDebugSidecar"]:
                continue
            if row.key == INJECT and value is False:
                continue
            found[row.key] = _text(row, value)
            _parse(row, found[row.key], row.sets)
        return dict(sorted({**found, **self._said}.items()))

    @property
    def rest(self) -> Values:
        """The settings with only those changes that no annotation can say.

        Raises:
            BadOverrideError: as `values`.
        """
        after = msgspec.to_builtins(self.values)
        tree = msgspec.to_builtins(decode_values(self._base))
        for path in self.unsaid:
            _put(tree, path.split("."), _get(after, path.split(".")))
        return decode_values(tree)

    @property
    def unsaid(self) -> list[str]:
        """The settings that were changed, and that no annotation can tell the webhook."""
        after = msgspec.to_builtins(self.values)
        known = {row.sets for row in ANNOTATIONS if row.sets}
        known |= {row.derives[0] for row in ANNOTATIONS if row.derives}
        return [path for path in _differences(self._base, after) if not _is_under_any(path, known)]


def _is_under_any(path: str, known: set[str]) -> bool:
    return any(path == one or path.startswith(one + ".") for one in known)


def _differences(before: Any, after: Any, prefix: str = "") -> list[str]:
    if not isinstance(before, dict) or not isinstance(after, dict):
        return [] if before == after else [prefix]
    return [
        path
        for key in dict.fromkeys((*before, *after))
        for path in _differences(before.get(key), after.get(key), f"{prefix}.{key}".lstrip("."))
    ]


def _get(tree: Any, path: list[str]) -> Any:
    for name in path:
        tree = tree[name]
    return tree


def _put(tree: Any, path: list[str], value: Any) -> None:
    *parents, last = path
    for depth, name in enumerate(parents, start=1):
        if not isinstance(tree.get(name), dict):
            if tree.get(name) not in (None, ""):
                raise TypeError(f"{'.'.join(path[:depth])} is a value and holds no settings")
            tree[name] = {}
        tree = tree[name]
    tree[last] = value


def _type_of(level: Any, path: list[str]) -> Any:
    """The type of a setting; None where `Values` has no such place. Within free mappings any
    name is one."""
    if not path or get_origin(level) is dict or level is Any:
        return level if not path else Any
    structs = [one for one in (level, *get_args(level)) if msgspec.inspect.is_struct_type(one)]
    if not structs:
        return None
    fields = {item.encode_name: item.type for item in msgspec.structs.fields(structs[0])}
    return _type_of(fields[path[0]], path[1:]) if path[0] in fields else None


def _set_value(text: str, kind: Any) -> Any:
    """The value of ``--set``: as in YAML, but a text stays as it was typed where one belongs."""
    if text == "null" or kind is str:
        return None if text == "null" else text
    try:
        return yaml.safe_load(text) if text else ""
    except yaml.YAMLError:
        return text


def _parse(row: Annotation, text: str, source: str) -> Any:
    try:
        return row.parse(text)
    except BadValue as error:
        raise BadOverrideError(f"{source}: {text!r}: expected {error}") from None


def _text(row: Annotation, value: Any) -> str:
    """A setting as its annotation has it: the inverse of the annotation's parser."""
    if row.key == CLOSE_WAIT_TIMEOUT:
        return go_duration(value)
    if row.type == "enumeration":
        # Some enumerations stand for booleans, and an unset one is empty.
        choices = (choice for choice in row.bounds.split(", ") if row.parse(choice) == value)
        return next(choices, str(value))
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return msgspec.json.encode(value).decode()
    return str(value)


def go_duration(seconds: int) -> str:
    """Whole seconds as Go writes a duration: ``90`` is ``1m30s``."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def parse_config(assignment: str) -> tuple[str, str]:
    """``--config KEY=VALUE``: an annotation, with or without its prefix.

    Raises:
        BadOverrideError: no ``=``, not a known annotation, or a value that it cannot hold.
    """
    name, equals, text = assignment.partition("=")
    if not equals or not name:
        raise BadOverrideError(f"--config {assignment}: expected KEY=VALUE")
    key = name if "/" in name else PREFIX + name
    if key not in BY_KEY:
        near = difflib.get_close_matches(key, BY_KEY, n=1, cutoff=0.8)
        hint = f'; did you mean "{near[0].removeprefix(PREFIX)}"?' if near else ""
        what = "is not known" if is_unknown(key) else "is not an annotation of this mesh"
        raise BadOverrideError(f"--config {name}: {key} {what}{hint}")
    _parse(BY_KEY[key], text, f"--config {name}")
    return key, text
