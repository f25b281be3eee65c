"""What is to be injected, checked against the pod that it goes into."""

from __future__ import annotations

from collections.abc import Iterator

from injector.core.marks import marks_of
from injector.core.model import Object
from injector.core.pods import containers
from injector.core.ports import PROBES
from injector.core.values import Values, proxy_position
from vocabulary.annotations import PREFIX

_LINKERD = "linkerd"
_PORTS = ("inbound", "outbound", "control", "admin")


def conflicts(pod: Object, values: Values, profile: str = "") -> Iterator[str]:
    """A warning for each thing of the pod that does not go together with the proxy's settings: it
    names container, field and fix. The pod's own containers alone are looked at; ``profile`` is
    the name of the proxy's."""
    if profile and not marks_of(profile).proxies:
        return  # Its proxy is not in the pod.
    spec = pod["spec"]
    before = len(spec.get("initContainers") or ())
    position = proxy_position(values)
    for number, container in enumerate(containers(pod)):
        name = container.get("name", "")
        ends = number < before and container.get("restartPolicy") != "Always"
        if not (ends and position != "native"):
            yield from _of_user(spec, container, name, values)
        elif values.cni_enabled:
            yield from _of_order(spec, container, name, values)
        if not ends:
            yield from _of_ports(container, name, values)
            if profile == _LINKERD and not values.cni_enabled:
                yield from _of_probes(container, name)
    if position != "native":
        yield from _of_end(spec)


def _of_order(spec: Object, container: Object, name: str, values: Values) -> Iterator[str]:
    if _effective(spec, container, "runAsUser") != values.proxy.uid:
        yield (
            f'initContainers "{name}" runs before the proxy: its connections are refused. Let the '
            f"proxy start first ({PREFIX}proxy-enable-native-sidecar: true), or run it as user "
            f"{values.proxy.uid}"
        )


def _of_end(spec: Object) -> Iterator[str]:
    policy = spec.get("restartPolicy")
    if policy in ("Never", "OnFailure"):
        yield (
            f"restartPolicy {policy}: the pod does not end when its containers do, for the proxy "
            f"runs on. Make it a native sidecar ({PREFIX}proxy-enable-native-sidecar: true)"
        )


def _of_probes(container: Object, name: str) -> Iterator[str]:
    for probe in PROBES:
        port = ((container.get(probe) or {}).get("tcpSocket") or {}).get("port")
        if port is not None:
            yield (
                f'container "{name}" has {probe}.tcpSocket on port {port}: the proxy accepts in '
                "its place, so it succeeds always. Use httpGet, grpc or exec, or skip the port "
                f"({PREFIX}skip-inbound-ports)"
            )


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
