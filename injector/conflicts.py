"""What is to be injected, checked against the pod that it goes into."""

from __future__ import annotations

from collections.abc import Iterator

from injector.annotations import PREFIX
from injector.model import Object
from injector.pods import containers
from injector.values import Values

_PORTS = ("inbound", "outbound", "control", "admin")


def conflicts(pod: Object, values: Values) -> Iterator[str]:
    """A warning for each thing of the pod that does not go together with the proxy's settings: it
    names container, field and cure. The pod's own containers alone are looked at."""
    spec = pod["spec"]
    before = len(spec.get("initContainers") or ())
    for number, container in enumerate(containers(pod)):
        name = container.get("name", "")
        yield from _of_user(spec, container, name, values)
        if number >= before or container.get("restartPolicy") == "Always":
            yield from _of_ports(container, name, values)


def _of_user(spec: Object, container: Object, name: str, values: Values) -> Iterator[str]:
    uid, gid = (_effective(spec, container, field) for field in ("runAsUser", "runAsGroup"))
    if uid is not None and uid == values.proxy.uid:
        yield (
            f'container "{name}" has runAsUser {uid}, the proxy\'s: its traffic skips the mesh. '
            f"Give it another one, or the proxy ({PREFIX}proxy-uid)"
        )
    if gid and gid == values.proxy.gid:
        yield (
            f'container "{name}" has runAsGroup {gid}, the proxy\'s: its traffic skips the mesh. '
            f"Give it another one, or the proxy ({PREFIX}proxy-gid)"
        )


def _effective(spec: Object, container: Object, field: str) -> object:
    """A field of the security context: the container's, else the pod's."""
    for holder in (container, spec):
        found = (holder.get("securityContext") or {}).get(field)
        if found is not None:
            return found
    return None


def _of_ports(container: Object, name: str, values: Values) -> Iterator[str]:
    ours = {getattr(values.proxy.ports, kind): kind for kind in _PORTS}
    for port in container.get("ports") or ():
        number = port.get("containerPort")
        kind = ours.get(number)
        if kind is not None and port.get("protocol", "TCP") == "TCP":
            yield (
                f'container "{name}" has containerPort {number}, the proxy\'s {kind} port: one of '
                f"them cannot listen. Give the proxy another one ({PREFIX}{kind}-port)"
            )
