"""Takes away from an object everything that inject added, whichever profile added it.

What a person wrote stays: settings (``config.linkerd.io/*``), ``linkerd.io/inject: disabled``,
and every ``linkerd.io`` key that no injector sets (Linkerd's own command drops those too). What
inject changed it remembers, as JSON behind the command's name in ``linkerd.io/created-by``: an
annotation that is Linkerd's, and of which nobody reads the rest of the value.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from injector.annotations import ALPHA_PREFIX, BETA_PREFIX, INJECT, PREFIX, REDIRECT_ANNOTATION
from injector.annotations.redirect import CREATED_BY, WEBHOOK
from injector.model import BuildInput, Namespace, Object, Origin, Owner
from injector.pods import annotations_of, containers
from injector.profiles.common import (
    CONTROL_PLANE_NS_LABEL,
    DEFAULT_CONTAINER,
    SAFE_TO_EVICT,
    WORKLOAD_NS_LABEL,
)
from injector.profiles.envoy import INIT, PROXY, VALIDATOR
from injector.profiles.node import NodeProfile
from injector.values import Values
from injector.workloads import is_core, pod_of, pod_path, with_pod

COMMAND = "meshgraft/cli "
"""What the value of created-by starts with when the command injected."""
CONTROL_PLANE_COMPONENT = "linkerd.io/control-plane-component"
PROFILE = "meshgraft.io/profile"

_CONTAINERS = frozenset(
    ("linkerd-proxy", "linkerd-init", "linkerd-network-validator", "linkerd-debug")
)
_OUR_CONTAINERS = _CONTAINERS | {PROXY, INIT, VALIDATOR}
"""Where the pod says that it is ours: else these names may well be an application's own."""
_VOLUMES = frozenset(
    (
        "linkerd-identity-end-entity",
        "linkerd-proxy-init-xtables-lock",
        "linkerd-identity-token",
        "linkerd-podinfo",
    )
)
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
_LABELS = frozenset((CONTROL_PLANE_NS_LABEL, WORKLOAD_NS_LABEL))
_LABEL_PREFIX = "linkerd.io/proxy-"
_SETTINGS = (PREFIX, BETA_PREFIX, ALPHA_PREFIX)


_Record = Mapping[str, str | None]


def _node_variables() -> dict[str, Object]:
    """What profile ``node`` gives each container, by name."""
    nobody = BuildInput(
        pod={},
        settings=Values(),
        values=Values(),
        namespace=Namespace(""),
        owner=Owner("pod", ""),
        origin=Origin(created_by="", additions=False),
    )
    return {variable["name"]: variable for variable in NodeProfile().build(nobody).container_env}


_NODE_VARIABLES = _node_variables()
_NODE_ADDRESS = "$(NODE_NAME):"
_OWN_ENV = "env:"
"""How the record's keys begin that name a container: its own variables of those names."""


def own_variables(pod: Object) -> dict[str, str]:
    """Variables of the pod's own that uninject could take for ours, by container."""
    found = {
        f"{_OWN_ENV}{container['name']}": ",".join(
            variable["name"]
            for variable in container.get("env") or ()
            if variable["name"] in _NODE_VARIABLES
        )
        for container in containers(pod)
    }
    return {key: names for key, names in found.items() if names}


def created_by(version: str, changed: _Record) -> str:
    """The value of ``linkerd.io/created-by``, with what inject changed among the annotations
    that people also write (each key with its value before; None: absent), and the variables
    that are the pod's own (see `own_variables`)."""
    record = json.dumps(dict(sorted(changed.items())), separators=(",", ":")) if changed else ""
    return f"{COMMAND}{version} {record}".rstrip()


def _record(obj: Object) -> _Record:
    """The record in ``linkerd.io/created-by``; empty where there is none that can be trusted."""
    value = annotations_of(obj).get(CREATED_BY, "")
    if not value.startswith(COMMAND) or "{" not in value:
        return {}
    try:
        found = msgspec.json.decode(value[value.index("{") :], type=dict[str, str | None])
    except (msgspec.DecodeError, UnicodeError):
        return {}
    known = (*_SETTINGS, _OWN_ENV)
    return {key: text for key, text in found.items() if key == INJECT or key.startswith(known)}


def is_mark(key: str, value: str) -> bool:
    """Whether an annotation says that the object is meshed, or how it was."""
    return key in _ANNOTATIONS or (key == INJECT and value != "disabled")


def uninject(obj: Object) -> Object:
    """The object as it was before inject; equal where inject had not touched it.

    ``obj`` is not changed. Objects that inject does not touch come back as they are.

    Raises:
        FieldError: the object's pod or metadata is malformed.
    """
    if is_core(obj, "Namespace") or is_core(obj, "Service"):
        return _bare_annotations(obj, _record(obj))
    path = pod_path(obj)
    if path is None:
        return obj
    pod = pod_of(obj, path)
    record = {**_record(obj), **_record(pod)}
    bare = _bare_metadata(_bare_convenience(_bare_spec(pod, record)), record)
    if bare != pod:
        obj = with_pod(obj, path, bare)
    return _bare_metadata(obj, {}) if path else obj


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


def _put_metadata(obj: Object, metadata: Object) -> Object:
    if metadata == (obj.get("metadata") or {}):
        return obj
    result = {**obj, "metadata": metadata}
    if not metadata:
        del result["metadata"]
    return result


def _bare_annotations(obj: Object, record: _Record) -> Object:
    changed = {key: text for key, text in record.items() if not key.startswith(_OWN_ENV)}
    restored = {key: text for key, text in changed.items() if text is not None}
    metadata = _filter(
        obj.get("metadata") or {},
        "annotations",
        lambda item: not is_mark(*item) and changed.get(item[0], "") is not None,
    )
    if restored:
        kept = metadata.get("annotations") or {}
        metadata = {**metadata, "annotations": {**kept, **restored}}
    return _put_metadata(obj, metadata)


def _bare_metadata(obj: Object, record: _Record) -> Object:
    if CONTROL_PLANE_COMPONENT in ((obj.get("metadata") or {}).get("labels") or {}):
        return obj  # Its labels are its own: Linkerd's charts set them.
    obj = _bare_annotations(obj, record)
    metadata = _filter(
        obj.get("metadata") or {},
        "labels",
        lambda item: item[0] not in _LABELS and not item[0].startswith(_LABEL_PREFIX),
    )
    return _put_metadata(obj, metadata)


def _containers_of(pod: Object) -> frozenset[str]:
    return _OUR_CONTAINERS if PROFILE in annotations_of(pod) else _CONTAINERS


def _bare_spec(pod: Object, record: _Record) -> Object:
    spec: Object = pod["spec"]
    added = _containers_of(pod)
    spec = _filter(spec, "initContainers", lambda item: item["name"] not in added)
    spec = _filter(spec, "containers", lambda item: item["name"] not in added)
    spec = _filter(spec, "volumes", lambda item: item["name"] not in _VOLUMES)
    if annotations_of(pod).get(PROFILE) == NodeProfile.name:
        spec = _bare_env(spec, record)
    return pod if spec is pod["spec"] else {**pod, "spec": spec}


def _bare_env(spec: Object, record: _Record) -> Object:
    """Without the variables of profile ``node`` that are not the containers' own."""

    def bare(container: Object) -> Object:
        own = (record.get(_OWN_ENV + container["name"]) or "").split(",")
        return _filter(container, "env", lambda item: item["name"] in own or not _is_node(item))

    for name in ("initContainers", "containers"):
        if spec.get(name):
            fresh = [bare(container) for container in spec[name]]
            spec = spec if fresh == spec[name] else {**spec, name: fresh}
    return spec


def _is_node(variable: Object) -> bool:
    """Whether profile ``node`` could have set the variable, whatever its ports are."""
    ours = _NODE_VARIABLES.get(variable["name"])
    if ours is None or variable == ours:
        return ours is not None
    texts = (str(variable.get("value", "")), str(ours.get("value", "")))
    return all(text.startswith(_NODE_ADDRESS) for text in texts)


def _bare_convenience(pod: Object) -> Object:
    """Without what the webhook adds for kubectl's and the autoscaler's sake."""
    annotations = annotations_of(pod)
    if not annotations.get(CREATED_BY, "").startswith(WEBHOOK):
        return pod
    changed = dict(annotations)
    first = next((one["name"] for one in pod["spec"].get("containers") or ()), None)
    if changed.get(DEFAULT_CONTAINER) == first:
        # What kubectl would take anyway.
        changed.pop(DEFAULT_CONTAINER, None)
    if SAFE_TO_EVICT in changed:
        listed = [name for name in changed[SAFE_TO_EVICT].split(",") if name not in _VOLUMES]
        changed[SAFE_TO_EVICT] = ",".join(listed)
        if not listed:
            del changed[SAFE_TO_EVICT]
    return _put_metadata(pod, {**pod["metadata"], "annotations": changed})
