"""Where the pod is in each kind of object, and the shape that all of it must have."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from injector.core.model import Object
from injector.core.owners import ObjectMeta
from injector.core.schema import malformed
from vocabulary.errors import MeshgraftError

_Path = tuple[str, ...]

_TEMPLATE: _Path = ("spec", "template")
_KINDS: Mapping[str, tuple[frozenset[str], _Path]] = {
    "Pod": (frozenset(("",)), ()),
    "ReplicationController": (frozenset(("",)), _TEMPLATE),
    **{
        kind: (frozenset(("apps", "extensions")), _TEMPLATE)
        for kind in ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet")
    },
    "Job": (frozenset(("batch",)), _TEMPLATE),
    "CronJob": (frozenset(("batch",)), ("spec", "jobTemplate", *_TEMPLATE)),
}
_POD: Object = {"apiVersion": "v1", "kind": "Pod"}


class FieldError(MeshgraftError, ValueError):
    """An object is not what its kind promises; ``field`` says where."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}" if field else problem)
        self.field = field
        self.problem = problem


def group_of(obj: Object) -> str:
    """The API group; empty for the core group."""
    version = obj.get("apiVersion")
    return version.rpartition("/")[0] if isinstance(version, str) else ""


def is_core(obj: Object, kind: str) -> bool:
    """Whether this is a Service, or a Namespace, and not another API's kind of that name."""
    return obj.get("kind") == kind and group_of(obj) == ""


def pod_path(obj: Object) -> _Path | None:
    """Where the pod or pod template is; None where the kind has none."""
    kind = obj.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        return None
    groups, path = _KINDS[kind]
    # Without an apiVersion the kind has to do.
    return path if group_of(obj) in groups or not obj.get("apiVersion") else None


def pod_of(obj: Object, path: _Path) -> Object:
    """The pod that the object makes: a pod itself as it is, a template with a pod's type.

    Raises:
        FieldError: a part on the way there, or a part of the pod that matters, is malformed.
    """
    part: Any = obj
    for depth, name in enumerate(path, start=1):
        part = part.get(name)
        if not isinstance(part, dict):
            raise FieldError(".".join(path[:depth]), f"an object is expected, not {_typed(part)}")
    pod: Object = part if not path else {**_POD, **part}
    prefix = ".".join(path)
    if problem := malformed("Pod", pod):
        raise _field_error(prefix, problem)
    check_metadata(pod, prefix)
    return pod


def check_metadata(obj: Object, prefix: str = "") -> None:
    """Refuse metadata that Kubernetes would not take, such as an annotation that is a number.

    Raises:
        FieldError: what is wrong, and where.
    """
    where = f"{prefix}.metadata" if prefix else "metadata"
    for name in ("annotations", "labels"):
        pairs = (obj.get("metadata") or {}).get(name)
        for key, value in pairs.items() if isinstance(pairs, dict) else ():
            if not isinstance(value, str):
                problem = f"a text is expected, not {_typed(value)}; quotes make it one"
                raise FieldError(f"{where}.{name}[{key}]", problem)
    try:
        msgspec.convert(obj.get("metadata") or {}, ObjectMeta)
    except msgspec.ValidationError as error:
        raise _field_error(where, str(error)) from error


_AT = re.compile(r"(?P<problem>.*?)(?: - at `(?:key in )?\$(?P<path>.*)`)?", re.S)


def _field_error(prefix: str, message: str) -> FieldError:
    """msgspec's message with the field as people write it: ``spec.containers[0].image``."""
    match = _AT.fullmatch(message)
    if match is None:
        return FieldError(prefix, message)
    problem = match["problem"].replace("`", "").replace("Expected", "expected")
    missing = re.fullmatch(r"Object missing required field (\S+)", problem)
    path = prefix + (match["path"] or "")
    if missing:
        path, problem = f"{path}.{missing[1]}", "missing"
    return FieldError(path.lstrip("."), problem)


_TYPES: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (bool, "a boolean"),
    (str, "a text"),
    ((int, float), "a number"),
    (list, "a list"),
    (dict, "an object"),
)


def _typed(value: Any) -> str:
    """What a value is, for people."""
    return next((name for kind, name in _TYPES if isinstance(value, kind)), "nothing")


def with_pod(obj: Object, path: _Path, pod: Object) -> Object:
    """The object with another pod in it; parts beside the way there are shared."""
    if not path:
        return pod
    if len(path) == 1:
        inner = {key: value for key, value in pod.items() if key not in _POD}
        return {**obj, path[0]: inner}
    return {**obj, path[0]: with_pod(obj[path[0]], path[1:], pod)}


def items_of(obj: Object) -> Iterator[tuple[str, Object | None]] | None:
    """The objects of a List with their fields (``items[0]``); None where it is no List.

    A typed list (DeploymentList, as the API answers) leaves the kind out of its items; here they
    have it. An item that is null is None.

    Raises:
        FieldError: ``items`` is no list of objects.
    """
    kind = obj.get("kind")
    if not isinstance(kind, str) or not kind.endswith("List") or "items" not in obj:
        return None
    return _items(obj["items"], obj, kind)


def _items(items: Any, obj: Object, kind: str) -> Iterator[tuple[str, Object | None]]:
    shared = {"apiVersion": obj.get("apiVersion"), "kind": kind.removesuffix("List")}
    if items is not None and not isinstance(items, list):
        raise FieldError("items", f"a list is expected, not {_typed(items)}")
    for number, item in enumerate(items or ()):
        if item is None:
            yield f"items[{number}]", None
            continue
        if not isinstance(item, dict):
            raise FieldError(f"items[{number}]", f"an object is expected, not {_typed(item)}")
        yield f"items[{number}]", item if kind == "List" else {**shared, **item}
