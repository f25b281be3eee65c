"""Lays a namespace's and a pod's annotations over the settings.

The layers are settings < namespace < pod. A value that cannot be read never denies a pod: the
next lower layer's value holds, and a warning says what is expected where.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from cachetools import LRUCache

from injector.core.values import Resource, Resources, Values
from vocabulary.annotations import (
    ANNOTATIONS,
    BY_KEY,
    CLOSE_WAIT_TIMEOUT,
    INJECT,
    REMOVED,
    Annotation,
    BadItems,
    BadValue,
    is_unknown,
    parse_quantity,
)
from vocabulary.annotations.parse import shortened, whole_cores

_MOST_UNKNOWN = 10
"""Unknown keys for which a near one is looked for: each costs half a millisecond, and a pod may
bring ten thousand while all others wait."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """Settings for one pod.

    ``inherited`` holds what the namespace hands down to the pod: annotations that the pod lacks,
    and that can be read (what is bad is not spread further).
    """

    values: Values
    warnings: tuple[str, ...] = ()
    inherited: Mapping[str, str] = field(default_factory=dict)


_Path = tuple[str, ...]


def _compile(path: str) -> _Path:
    """The attribute names of a path as the values file spells it.

    Raises:
        KeyError: `Values` has no such setting; found at import, so that the table cannot be wrong.
    """
    names: list[str] = []
    level: Any = Values
    for part in path.split("."):
        found = {item.encode_name: item for item in msgspec.structs.fields(level)}[part]
        names.append(found.name)
        level = found.type
    return tuple(names)


_SETS: dict[str, _Path] = {row.key: _compile(row.sets) for row in ANNOTATIONS if row.sets}
_DERIVES: dict[str, _Path] = {
    row.key: _compile(row.derives[0]) for row in ANNOTATIONS if row.derives
}


class _Changes:
    """New values by path, applied at once: each struct on the way is copied only once."""

    def __init__(self) -> None:
        self._tree: dict[str, Any] = {}

    def set(self, path: _Path, value: Any) -> None:
        level = self._tree
        for name in path[:-1]:
            level = level.setdefault(name, {})
        # A tuple marks a leaf: a value may itself be a mapping.
        level[path[-1]] = (value,)

    def apply(self, values: Values) -> Values:
        return _replace(values, self._tree) if self._tree else values


def _replace(struct: Any, tree: Mapping[str, Any]) -> Any:
    return msgspec.structs.replace(
        struct,
        **{
            name: leaf[0] if isinstance(leaf, tuple) else _replace(getattr(struct, name), leaf)
            for name, leaf in tree.items()
        },
    )


def _shown(row: Annotation, value: str) -> str:
    return "its value" if row.secret else repr(shortened(value))


@dataclass(slots=True)
class _Read:
    """What one layer says for one key."""

    text: str
    value: Any
    readable: str | None
    """The text without its bad items; None where it has no such form."""


def _read(row: Annotation, text: str, layer: str, warnings: list[str]) -> _Read | None:
    """The value of an annotation, or None and a warning; a list's good items count."""
    try:
        if len(text) > row.longest:
            # Reading on would hold up all other pods.
            raise BadValue(f"at most {row.longest} characters, not {len(text)}")
        return _Read(text, row.parse(text), readable=text)
    except BadItems as error:
        warnings.append(f"{row.key}: {_shown(row, text)} on the {layer}: expected {error}")
        readable = error.good if isinstance(error.good, str) else None
        return _Read(text, error.good, readable) if error.good else None
    except BadValue as error:
        warnings.append(
            f"{row.key}: {_shown(row, text)} on the {layer} is not used: expected {error}"
        )
        return None


def _merge_by_name(lower: list[Any], upper: list[Any]) -> list[Any]:
    merged = {item["name"]: item for item in lower}
    merged.update((item["name"], item) for item in upper)
    return list(merged.values())


def _current(values: Values, path: _Path) -> Any:
    level: Any = values
    for name in path:
        level = getattr(level, name)
    return level


class _Layers:
    """One resolution under way: both layers' annotations, and what came of them so far."""

    def __init__(
        self, values: Values, namespace: Mapping[str, str], pod: Mapping[str, str]
    ) -> None:
        self.values = values
        self.namespace = namespace
        self.pod = pod
        self.warnings: list[str] = []
        self.inherited: dict[str, str] = {}
        self.changes = _Changes()

    def lay(self, row: Annotation) -> None:
        key = row.key
        if any(other in self.pod or other in self.namespace for other in row.hidden_by):
            return
        lower = upper = None
        if key in self.pod:
            upper = _read(row, self.pod[key], "pod", self.warnings)
        if key in self.namespace and (upper is None or row.merges):
            lower = _read(row, self.namespace[key], "namespace", self.warnings)
        if lower and lower.readable is not None and row.inherited and key not in self.pod:
            self.inherited[key] = lower.readable
        self._set(row, [layer for layer in (lower, upper) if layer is not None])

    def _set(self, row: Annotation, layers: list[_Read]) -> None:
        path = _SETS.get(row.key)
        if not layers or path is None or layers[-1].value is None:
            return
        value = layers[-1].value
        if row.merges:
            value = _current(self.values, path)
            for layer in layers:
                value = _merge_by_name(value, layer.value)
        self.changes.set(path, value)
        if row.derives:
            self.changes.set(_DERIVES[row.key], row.derives[1](layers[-1].text))


def _unknown_warning(key: str, layer: str) -> str:
    if key in REMOVED:
        return f"{key} on the {layer}: Linkerd has removed this annotation; it has no effect"
    near = difflib.get_close_matches(key, BY_KEY, n=1, cutoff=0.8)
    hint = f'; did you mean "{near[0]}"?' if near else ""
    return f"{key} on the {layer}: this annotation is not known, it has no effect{hint}"


def unknown_warnings(annotations: Mapping[str, str], layer: str) -> list[str]:
    """A warning for each key that looks like one of ours and is none, with the nearest that is."""
    unknown = [key for key in annotations if is_unknown(key)]
    warnings = [_unknown_warning(key, layer) for key in unknown[:_MOST_UNKNOWN]]
    if len(unknown) > _MOST_UNKNOWN:
        warnings.append(
            f"{len(unknown) - _MOST_UNKNOWN} more annotations on the {layer} are not known"
        )
    return warnings


def inject_warnings(
    namespace_annotations: Mapping[str, str], pod_annotations: Mapping[str, str]
) -> list[str]:
    """A warning for each layer where ``linkerd.io/inject`` holds what it may not."""
    warnings: list[str] = []
    for layer, found in (("namespace", namespace_annotations), ("pod", pod_annotations)):
        if INJECT in found:
            _read(BY_KEY[INJECT], found[INJECT], layer, warnings)
    return warnings


def resolve(
    values: Values, namespace_annotations: Mapping[str, str], pod_annotations: Mapping[str, str]
) -> Resolved:
    """The settings for one pod: ``values``, under the namespace's and the pod's annotations.

    Never raises for what users wrote; see `Resolved.warnings`. Pods come in bursts from one
    template: the last results are kept, and shared, so they must not be changed.
    """
    given = (_ours(namespace_annotations), _ours(pod_annotations))
    size = sum(len(text) for layer in given for _, text in layer)
    if size > _KEPT_CHARS:
        return _resolve(values, *map(dict, given))
    key = (id(values), *given)
    kept = _KEPT.get(key)
    if kept is not None and kept[0] is values:
        return kept[1]
    resolved = _resolve(values, *map(dict, given))
    _KEPT[key] = values, resolved
    return resolved


_KEPT_CHARS = 2048
_KEPT: LRUCache[tuple[Any, ...], tuple[Values, Resolved]] = LRUCache(256)
"""Settings and what became of them: the settings too, so that no other get their identity."""


def _ours(annotations: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Those that count here, or look as if they should."""
    return tuple(item for item in annotations.items() if item[0] in BY_KEY or is_unknown(item[0]))


def _resolve(
    values: Values, namespace_annotations: Mapping[str, str], pod_annotations: Mapping[str, str]
) -> Resolved:
    layers = _Layers(values, namespace_annotations, pod_annotations)
    for row in _mentioned(namespace_annotations, pod_annotations):
        layers.lay(row)
    layers.warnings += unknown_warnings(pod_annotations, "pod")
    layers.warnings += unknown_warnings(namespace_annotations, "namespace")
    resolved = _consistent(layers.changes.apply(values), values, layers.warnings)
    return Resolved(resolved, tuple(layers.warnings), layers.inherited)


def _mentioned(*layers: Mapping[str, str]) -> list[Annotation]:
    keys = {key: None for layer in layers for key in layer if key in BY_KEY}
    return [BY_KEY[key] for key in keys]


def _consistent(values: Values, fallback: Values, warnings: list[str]) -> Values:
    """Values that are good one by one, but not together, put right; each with a warning."""
    values = _distinct_ports(values, fallback, warnings)
    values = _requests_within_limits(values, warnings)
    if values.proxy_init.close_wait_timeout_secs and not values.proxy_init.run_as_root:
        # Linkerd denies the pod here.
        warnings.append(
            f"{CLOSE_WAIT_TIMEOUT} is not used: it takes an init container that runs as root;"
            " ask whoever installed the mesh to set proxyInit.runAsRoot"
        )
        values = _replace(values, {"proxy_init": {"close_wait_timeout_secs": (0,)}})
    return values


def _distinct_ports(values: Values, fallback: Values, warnings: list[str]) -> Values:
    ports = values.proxy.ports
    if ports is fallback.proxy.ports:
        return values
    numbers = (ports.control, ports.admin, ports.inbound, ports.outbound)
    if len(set(numbers)) == len(numbers):
        return values
    shown = ", ".join(map(str, numbers))
    warnings.append(
        f"the proxy's control, admin, inbound and outbound ports ({shown}) are not used: expected"
        " four different ports"
    )
    return _replace(values, {"proxy": {"ports": (fallback.proxy.ports,)}})  # type: ignore[no-any-return]


def _requests_within_limits(values: Values, warnings: list[str]) -> Values:
    """The API server refuses a pod that asks for more than its limit; the limit holds then."""
    resources = values.proxy.resources
    changed = {}
    for name in Resources.__struct_fields__:
        resource: Resource = getattr(resources, name)
        if resource.request and resource.limit and _exceeds(resource):
            warnings.append(
                f"the proxy's {name.replace('_', '-')} request {resource.request} is not used:"
                f" expected at most its limit {resource.limit}, which is used for both"
            )
            changed[name] = (Resource(request=resource.limit, limit=resource.limit),)
    if not changed:
        return values
    proxy: dict[str, Any] = {"resources": changed}
    if "cpu" in changed:
        # The threads follow the request: at least more than at most is nothing a proxy can do.
        proxy["runtime"] = {"workers": {"minimum": (whole_cores(resources.cpu.limit),)}}
    return _replace(values, {"proxy": proxy})  # type: ignore[no-any-return]


def _exceeds(resource: Resource) -> bool:
    try:
        return parse_quantity(resource.request) > parse_quantity(resource.limit)
    except BadValue:
        return False  # From the values file, where anything may stand.
