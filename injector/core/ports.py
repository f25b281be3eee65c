"""The ports of pods and services: which a pod serves, which are opaque, what a port name means."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from injector.core.model import Object
from injector.core.pods import containers
from injector.core.values import Values
from vocabulary.annotations import OPAQUE_PORTS, BadItems, is_port_name
from vocabulary.annotations.parse import MOST_ITEMS, parse_opaque_port_text

_MOST_SHOWN = 5
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
"""The fields of a container that hold probes."""


def container_ports(pod: Object) -> list[Object]:
    """Every port that a container declares, in order, whatever the protocol."""
    return [port for container in containers(pod) for port in container.get("ports") or ()]


def _probe_ports(pod: Object) -> Iterator[int]:
    for container in containers(pod):
        for probe in ("readinessProbe", "livenessProbe"):
            port = ((container.get(probe) or {}).get("httpGet") or {}).get("port")
            if isinstance(port, int):
                yield port


def tcp_probe_ports(pod: Object) -> tuple[int, ...]:
    """The ports of the pod that the kubelet probes by connecting (``tcpSocket``), each once, in
    order; a name counts for the port of that name of its container."""
    found: dict[int, None] = {}
    for container in containers(pod):
        named = {each.get("name"): each["containerPort"] for each in container.get("ports") or ()}
        for probe in PROBES:
            connect = (container.get(probe) or {}).get("tcpSocket") or {}
            port = connect.get("port")
            number = port if isinstance(port, int) else named.get(port)
            if not connect.get("host") and isinstance(number, int) and 0 < number <= 65535:
                found[number] = None
    return tuple(found)


def inbound_ports(pod: Object) -> str:
    """The ports that a pod serves: its containers' and its HTTP probes', each once.

    Sorted as text ("11211,80,9090"), as Linkerd sorts them; startup, TCP and gRPC probes and
    named probe ports do not count there.
    """
    ports = {str(port["containerPort"]) for port in container_ports(pod)}
    ports.update(str(port) for port in _probe_ports(pod))
    return ",".join(sorted(ports))


def _opaque(values: Values) -> frozenset[str]:
    return frozenset(item.strip() for item in values.proxy.opaque_ports.split(","))


def default_opaque_ports(obj: Object, values: Values) -> str:
    """Those of an object's ports that are opaque by default, as the value of the annotation.

    For a pod each container port, for a Service each port of which the target is opaque;
    named target ports never count, since only the pods know them.
    """
    opaque = _opaque(values)
    if obj.get("kind") == "Pod":
        found = [str(port["containerPort"]) for port in container_ports(obj)]
        return ",".join(port for port in found if port in opaque)
    return ",".join(
        str(port["port"])
        for port in (obj.get("spec") or {}).get("ports") or ()
        if str(port.get("targetPort") or port["port"]) in opaque
    )


def resolve_opaque_ports(text: str, pod: Object) -> tuple[str, tuple[str, ...]]:
    """Opaque ports with the names of container ports replaced by numbers; ranges are kept.

    Returns the list, and warnings about items that are neither a port nor such a name.
    """
    not_ports: tuple[str, ...] = ()
    try:
        text = parse_opaque_port_text(text)
    except BadItems as error:
        text, not_ports = error.good, _left_out(error.bad, "not a port")
        if error.excess:
            not_ports += (
                f"{OPAQUE_PORTS}: {error.excess} items left out: at most {MOST_ITEMS} count",
            )
    items = text.split(",")
    if not any(map(is_port_name, items)):
        return text, not_ports
    names: dict[str, str] = {}
    for port in container_ports(pod):
        names.setdefault(port.get("name", ""), str(port["containerPort"]))
    resolved = [names.get(item, "") if is_port_name(item) else item for item in items]
    unknown = [item for item in items if is_port_name(item) and item not in names]
    nameless = _left_out(unknown, "no container of the pod has a port so named")
    return ",".join(filter(None, resolved)), (*not_ports, *nameless)


def _left_out(items: Sequence[str], why: str) -> tuple[str, ...]:
    """One warning however many the items are: a list may hold a hundred thousand."""
    if not items:
        return ()
    shown = ", ".join(map(repr, items[:_MOST_SHOWN]))
    more = f" and {len(items) - _MOST_SHOWN} more" if len(items) > _MOST_SHOWN else ""
    return (f"{OPAQUE_PORTS}: {shown}{more} left out: {why}",)
