"""Puts what a profile adds into a pod: a new pod that shares with the old what stays the same.

The order is that of Linkerd's patch, because the order of containers and volumes is what the
kubelet starts and mounts in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from injector.core.model import Additions, Object


def annotate(obj: Object, annotations: Mapping[str, str]) -> Object:
    """A copy of an object with more annotations; the object itself where there are none."""
    return _with_metadata(obj, annotations, {}) if annotations else obj


def _with_metadata(
    obj: Object, annotations: Mapping[str, str], labels: Mapping[str, str]
) -> Object:
    metadata = dict(obj.get("metadata") or {})
    for name, added in (("annotations", annotations), ("labels", labels)):
        if added:
            metadata[name] = {**(metadata.get(name) or {}), **dict(sorted(added.items()))}
    return {**obj, "metadata": metadata}


def _with_env(container: Object, env: Sequence[Object]) -> Object:
    """A copy of a container with the variables that it does not set itself."""
    present = container.get("env") or []
    names = {variable["name"] for variable in present}
    missing = [variable for variable in env if variable["name"] not in names]
    return {**container, "env": [*present, *missing]} if missing else container


def splice(pod: Object, additions: Additions) -> Object:
    """The pod with what a profile adds, under names that are free; ``pod`` itself is not
    changed."""
    pod = _with_metadata(pod, additions.annotations, additions.labels)
    spec = pod["spec"] = dict(pod["spec"])
    before, beside = _proxies_places(additions)
    for name, front, back in (
        ("volumes", (), additions.volumes),
        ("initContainers", *before),
        ("containers", *beside),
    ):
        own = spec.get(name) or ()
        if additions.container_env and name != "volumes":
            own = [_with_env(container, additions.container_env) for container in own]
        if front or back or own:
            spec[name] = [*front, *own, *back]
    if additions.image_pull_secrets:
        own = spec.get("imagePullSecrets") or []
        new = [secret for secret in additions.image_pull_secrets if secret not in own]
        spec["imagePullSecrets"] = [*own, *new]
    return pod


_Places = tuple[tuple[Object, ...], tuple[Object, ...]]


def _proxies_places(additions: Additions) -> tuple[_Places, _Places]:
    """What comes in front of and behind the pod's own init containers, and its containers.

    Beside a native proxy, init containers come first, so that the pod's own already run with
    the proxy; else last, so that the pod's own still run without.
    """
    inits, others = additions.init_containers, additions.containers
    proxy = (additions.proxy,) if additions.proxy else ()
    if additions.position == "native":
        return ((*inits, *proxy), ()), ((), others)
    if additions.position == "first":
        return ((), inits), (proxy, others)
    return ((), inits), ((), (*others, *proxy))
