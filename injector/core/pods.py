"""Looks at a pod: its annotations, its containers, its mounts."""

from __future__ import annotations

from collections.abc import Mapping

from injector.core.model import Object

SERVICE_ACCOUNT_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"


def annotations_of(obj: Object) -> Mapping[str, str]:
    """An object's annotations; none is the same as empty."""
    return (obj.get("metadata") or {}).get("annotations") or {}


def containers(pod: Object) -> tuple[Object, ...]:
    """The pod's containers, init containers first."""
    spec = pod.get("spec") or {}
    return (*(spec.get("initContainers") or ()), *(spec.get("containers") or ()))


def first_container(pod: Object) -> Object:
    """The pod's first own container: the only one at which Linkerd looks closer."""
    found: list[Object] = pod["spec"].get("containers") or [{}]
    return found[0]


def service_account_mount(pod: Object) -> Object | None:
    """The first container's mount of the service account, as the proxy should have it too."""
    for mount in first_container(pod).get("volumeMounts") or ():
        if mount.get("mountPath") == SERVICE_ACCOUNT_PATH:
            return {key: mount[key] for key in ("mountPath", "name", "readOnly") if key in mount}
    return None
