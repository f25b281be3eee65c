"""Takes away from an object everything that inject added, whichever profile added it.

What a person wrote stays: settings (``config.linkerd.io/*``), ``linkerd.io/inject: disabled``,
and every ``linkerd.io`` key that no injector sets (Linkerd's own command drops those too). Only
where a pod says that it was injected do containers and volumes go, known by name; what the record
in ``linkerd.io/created-by`` calls the pod's own stays.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from injector.core.authorship import (
    COMMAND,
    LISTS,
    Record,
    added_pull_secrets,
    annotations_before,
    is_label,
    labels_before,
    own_names,
    own_variables,
    record_of,
)
from injector.core.marks import (
    DEFAULT_CONTAINER,
    PROFILE,
    SAFE_TO_EVICT,
    all_marks,
    marks_of,
    untold_marks,
)
from injector.core.model import Object
from injector.core.pods import annotations_of, containers
from injector.core.workloads import is_core, pod_of, pod_path, with_pod
from vocabulary.annotations import INJECT, REDIRECT_ANNOTATION
from vocabulary.annotations.redirect import CREATED_BY, WEBHOOK

CONTROL_PLANE_COMPONENT = "linkerd.io/control-plane-component"

_ANNOTATIONS = frozenset(
    (
        CREATED_BY,
        "linkerd.io/proxy-version",
        "linkerd.io/trust-root-sha256",
        "linkerd.io/identity-mode",
        PROFILE,
        REDIRECT_ANNOTATION,
    )
)


_NODE_ADDRESS = "$(NODE_NAME):"


def is_mark(key: str, value: str) -> bool:
    """Whether an annotation says that the object is meshed, or how it was."""
    return key in _ANNOTATIONS or (key == INJECT and value != "disabled")


def uninject(obj: Object, *, owners_inject: bool = False) -> Object:
    """The object as it was before inject; equal where inject had not touched it.

    ``obj`` is not changed. Objects that inject does not touch come back as they are. With
    ``owners_inject``, a ``linkerd.io/inject`` that the record does not call ours stays; without,
    it goes, since Linkerd's inject leaves no record.

    Raises:
        FieldError: the object's pod or metadata is malformed.
    """
    if is_core(obj, "Namespace") or is_core(obj, "Service"):
        return _bare_annotations(obj, _record(obj, record_of(obj), owners_inject))
    path = pod_path(obj)
    if path is None:
        return obj
    pod = pod_of(obj, path)
    record = _record(pod, {**record_of(obj), **record_of(pod)}, owners_inject)
    injected = _is_injected(pod)
    bare = _bare_spec(_bare_convenience(pod, record), record) if injected else pod
    bare = _bare_metadata(bare, record, injected)
    if bare != pod:
        obj = with_pod(obj, path, bare)
    return _bare_metadata(obj, {}, injected) if path else obj


def _record(part: Object, record: Record, owners_inject: bool) -> Record:
    value = annotations_of(part).get(INJECT)
    return {INJECT: value, **record} if owners_inject and value is not None else record


def _is_injected(pod: Object) -> bool:
    """Whether the pod bears a mark of an injector, or what only an injector calls so: a debug
    container or a volume may be anybody's."""
    annotations = annotations_of(pod)
    marks = _ANNOTATIONS & annotations.keys()
    if annotations.get(CREATED_BY, "").startswith(COMMAND):
        marks -= {CREATED_BY}  # It holds a record, also where the command only asked.
    if marks:
        return True
    untold = untold_marks()
    telling = untold.containers - untold.conveniences
    return any(container["name"] in telling for container in containers(pod))


def _filter(obj: Object, name: str, keep: Callable[[Any], bool]) -> Object:
    """The object with fewer items under ``name``, and without ``name`` where none is left."""
    present = obj.get(name)
    if not present:
        return obj
    if isinstance(present, list):
        left: Any = [item for item in present if keep(item)]
    else:
        left = {key: value for key, value in present.items() if keep((key, value))}
    if len(left) == len(present):
        return obj
    rest = {**obj, name: left}
    if not left:
        del rest[name]
    return rest


def _without(obj: Object, name: str, key: str, values: Collection[str]) -> Object:
    """The object without the items under ``name`` whose ``key`` is one of the values."""
    return _filter(obj, name, lambda item: item.get(key) not in values)


def _put_metadata(obj: Object, metadata: Object) -> Object:
    if metadata == (obj.get("metadata") or {}):
        return obj
    result = {**obj, "metadata": metadata}
    if not metadata:
        del result["metadata"]
    return result


def _bare_annotations(obj: Object, record: Record) -> Object:
    before = annotations_before(record)
    metadata = obj.get("metadata") or {}
    present = metadata.get("annotations") or {}
    bare: dict[str, str] = {}
    for key, value in present.items():
        text = before[key] if key in before else None if is_mark(key, value) else value
        if text is not None:
            bare[key] = text
    for key, text in before.items():
        if text is not None and key not in bare:
            bare = _inserted(bare, key, text)
    if bare == present:
        return obj
    metadata = {**metadata, "annotations": bare}
    if not bare:
        del metadata["annotations"]
    return _put_metadata(obj, metadata)


def _inserted(pairs: dict[str, str], key: str, value: str) -> dict[str, str]:
    """With one more pair, where it was if the pairs were sorted; else last."""
    if [*pairs] != sorted(pairs):
        return {**pairs, key: value}
    return dict(sorted({**pairs, key: value}.items()))


def _bare_metadata(obj: Object, record: Record, injected: bool) -> Object:
    if CONTROL_PLANE_COMPONENT in ((obj.get("metadata") or {}).get("labels") or {}):
        return obj  # Its labels are its own: Linkerd's charts set them.
    obj = _bare_annotations(obj, record)
    if not injected:
        return obj
    before = labels_before(record)
    metadata = obj.get("metadata") or {}
    metadata = _filter(
        {**metadata, "labels": {**metadata["labels"], **before}} if before else metadata,
        "labels",
        lambda item: item[0] in before or not is_label(item[0]),
    )
    return _put_metadata(obj, metadata)


def _bare_spec(pod: Object, record: Record) -> Object:
    spec: Object = pod["spec"]
    marks = all_marks() if PROFILE in annotations_of(pod) else untold_marks()
    for items in LISTS:
        added = marks.volumes if items == "volumes" else marks.containers
        added -= own_names(record, items)
        spec = _without(spec, items, "name", added)
    secrets = added_pull_secrets(record)
    spec = _without(spec, "imagePullSecrets", "name", secrets)
    if variables := marks_of(annotations_of(pod).get(PROFILE, "")).variables:
        spec = _bare_env(spec, record, variables)
    return pod if spec is pod["spec"] else {**pod, "spec": spec}


def _bare_env(spec: Object, record: Record, ours: Mapping[str, Object]) -> Object:
    """Without the variables of the profile that are not the containers' own."""

    def bare(container: Object) -> Object:
        own = own_variables(record, container["name"])
        return _filter(
            container, "env", lambda item: item["name"] in own or not _is_ours(item, ours)
        )

    for name in ("initContainers", "containers"):
        if spec.get(name):
            fresh = [bare(container) for container in spec[name]]
            spec = spec if fresh == spec[name] else {**spec, name: fresh}
    return spec


def _is_ours(variable: Object, known: Mapping[str, Object]) -> bool:
    """Whether the profile could have set the variable, whatever its ports are."""
    ours = known.get(variable["name"])
    if ours is None or variable == ours:
        return ours is not None
    if "valueFrom" in ours:
        return _field_path(variable) == _field_path(ours)
    texts = (str(variable.get("value", "")), str(ours.get("value", "")))
    return all(text.startswith(_NODE_ADDRESS) for text in texts)


def _field_path(variable: Object) -> object:
    """The field that a variable is taken from, whichever apiVersion the API server filled in."""
    return ((variable.get("valueFrom") or {}).get("fieldRef") or {}).get("fieldPath")


def _bare_convenience(pod: Object, record: Record) -> Object:
    """Without what the webhook adds for kubectl's and the autoscaler's sake; what was there
    before is in the record."""
    annotations = annotations_of(pod)
    if not annotations.get(CREATED_BY, "").startswith(WEBHOOK):
        return pod
    changed = dict(annotations)
    if DEFAULT_CONTAINER not in record and DEFAULT_CONTAINER in annotations:
        _drop_default_container(pod, changed)
    if SAFE_TO_EVICT in changed and SAFE_TO_EVICT not in record:
        listed = [
            name for name in changed[SAFE_TO_EVICT].split(",") if name not in all_marks().volumes
        ]
        changed[SAFE_TO_EVICT] = ",".join(listed)
        if not listed:
            del changed[SAFE_TO_EVICT]
    return _put_metadata(pod, {**pod["metadata"], "annotations": changed})


def _drop_default_container(pod: Object, annotations: dict[str, str]) -> None:
    """The webhook sets it where the proxy is the first container, to the one behind it."""
    first, *rest = (one["name"] for one in pod["spec"].get("containers") or ({"name": ""},))
    if first in all_marks().proxies and rest and annotations[DEFAULT_CONTAINER] == rest[0]:
        del annotations[DEFAULT_CONTAINER]
