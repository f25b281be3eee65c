"""How the resources are called: by what a client knows when it asks."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

from mesh.model.values import Ref
from vocabulary.mesh import TCP_PREFIX

LOCAL = "~local"
"""Ends the name of endpoints that differ by where the client is."""


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a connection was going, as Envoy writes it: ``10.96.0.1:80``, ``[fd00::1]:80``."""

    address: str
    port: int
    tcp: bool = False
    """Whether the connection is not HTTP."""

    @property
    def cluster(self) -> str:
        """The name of its Cluster."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{TCP_PREFIX if self.tcp else ''}{host}:{self.port}"


def parse_destination(name: str) -> Destination | None:
    """The destination that a Cluster's name means; None where it means none."""
    rest = name.removeprefix(TCP_PREFIX)
    host, _, port = rest.rpartition(":")
    if not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        return None
    try:
        address = str(ip_address(host[1:-1] if host.startswith("[") else host))
    except ValueError:
        return None
    found = Destination(address, int(port), tcp=rest != name)
    # One name for one destination, or a client might make us hold many for the same.
    return found if found.cluster == name else None


def endpoints_name(ref: Ref, port: int, *, local: bool = False) -> str:
    """The name of a ClusterLoadAssignment: ``shop/web:8080``."""
    return f"{ref}:{port}{LOCAL if local else ''}"


def parse_endpoints(name: str) -> tuple[Ref, int] | None:
    """The Service and port that a ClusterLoadAssignment's name means."""
    whole, _, port = name.removesuffix(LOCAL).rpartition(":")
    namespace, slash, service = whole.partition("/")
    if not (slash and namespace and service and port.isascii() and port.isdecimal()):
        return None
    return Ref(namespace, service), int(port)
