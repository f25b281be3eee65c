"""Services, EndpointSlices and pods as the mesh sees them: no Kubernetes and no Envoy in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from vocabulary.annotations.redirect import PortRange


class Ref(NamedTuple):
    """The name of an object in a namespace."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class ServicePort:
    """A TCP port of a Service; ``name`` is how its EndpointSlices call it."""

    name: str
    number: int


@dataclass(frozen=True, slots=True)
class Service:
    """A Service with addresses of its own. One without (headless) is reached by its pods'."""

    ref: Ref
    addresses: tuple[str, ...]
    """Its cluster IPs, of both families where it has them."""
    ports: tuple[ServicePort, ...]
    node_local: bool = False
    """``internalTrafficPolicy: Local``: only endpoints on the client's own node."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint of an EndpointSlice, by the first of its addresses (all mean the same)."""

    address: str
    ready: bool = True
    """Takes new connections; publishNotReadyAddresses makes it true for every pod."""
    serving: bool = True
    """Would be ready, if it were not on its way out."""
    node: str = ""
    zones: frozenset[str] = frozenset()
    """``hints.forZones``: whose clients should use it; empty where nobody said."""


@dataclass(frozen=True, slots=True)
class EndpointSlice:
    """Endpoints of a Service, of one address family and with the same ports."""

    ref: Ref
    service: str
    """The Service's name, in the same namespace."""
    ports: tuple[ServicePort, ...]
    """Where the endpoints listen: target ports, by the names of the Service's ports."""
    endpoints: tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True)
class Workload:
    """A pod with a network of its own."""

    ref: Ref
    uid: str
    node: str
    service_account: str
    addresses: tuple[str, ...]
    meshed: bool
    """Whether its proxy speaks the mesh's TLS: by what the injector wrote, and what it holds."""
    owner: str = ""
    """What made it, ``deployment/web``; for metrics."""
    past_the_proxy: tuple[PortRange, ...] = ()
    """Inbound ports whose traffic does not go through its proxy."""
    only: tuple[PortRange, ...] = ()
    """Where not empty, only these inbound ports go through it."""

    def has_identity_on(self, port: int) -> bool:
        """Whether a connection to this port meets the proxy, and so a proof of who it is."""
        if not self.meshed or any(one.lower <= port <= one.upper for one in self.past_the_proxy):
            return False
        return not self.only or any(one.lower <= port <= one.upper for one in self.only)


@dataclass(frozen=True, slots=True)
class Target:
    """Where one connection may go, and whom it has to find there."""

    address: str
    port: int
    workload: Workload | None = None
    """The pod behind the address, where it is one."""

    @property
    def meshed(self) -> Workload | None:
        """The pod, where it proves who it is on this port."""
        if self.workload is not None and self.workload.has_identity_on(self.port):
            return self.workload
        return None
