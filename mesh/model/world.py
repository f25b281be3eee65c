"""What is known of the cluster, indexed by what a client has: an address and a port.

It is changed by one object at a time, and says which services and addresses that concerns, so that
only what depends on them is made anew.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from mesh.model.values import Endpoint, EndpointSlice, Ref, Service, ServicePort, Target, Workload


@dataclass(frozen=True, slots=True)
class Touched:
    """What a change concerns."""

    addresses: frozenset[str] = frozenset()
    """Of which something else may be said now than before: a destination's, or an endpoint's."""
    services: frozenset[Ref] = frozenset()
    """Whose endpoints may be others now."""
    workloads: frozenset[str] = frozenset()
    """Pods, by uid."""

    def __bool__(self) -> bool:
        return bool(self.addresses or self.services or self.workloads)


@dataclass(frozen=True, slots=True)
class Viewpoint:
    """Where a client is, which decides about endpoints that are for some clients only."""

    node: str = ""
    zone: str = ""


@dataclass(slots=True)
class World:
    """Everything that is known."""

    services: dict[Ref, Service] = field(default_factory=dict)
    slices: dict[Ref, EndpointSlice] = field(default_factory=dict)
    workloads: dict[Ref, Workload] = field(default_factory=dict)
    _services_at: defaultdict[str, set[Ref]] = field(default_factory=lambda: defaultdict(set))
    """More than one for a moment too, while one is deleted and the next gets its address."""
    _slices_of: defaultdict[Ref, set[Ref]] = field(default_factory=lambda: defaultdict(set))
    _workloads_at: defaultdict[str, set[Ref]] = field(default_factory=lambda: defaultdict(set))
    """More than one for a moment: an address is given to a new pod before the old is forgotten."""
    _slices_with: defaultdict[str, set[Ref]] = field(default_factory=lambda: defaultdict(set))
    _by_uid: dict[str, Ref] = field(default_factory=dict)

    # What changes it

    def put_service(self, ref: Ref, service: Service | None) -> Touched:
        """The Service as it is now; None: it is gone, or has no address."""
        before = self.services.pop(ref, None)
        if before is not None:
            _discard(self._services_at, before.addresses, ref)
        if service is not None:
            self.services[ref] = service
            for address in service.addresses:
                self._services_at[address].add(ref)
        if before == service:
            return Touched()
        known = [one for one in (before, service) if one is not None]
        addresses = frozenset(address for one in known for address in one.addresses)
        return Touched(addresses, frozenset((ref,)))

    def put_slice(self, ref: Ref, slice_: EndpointSlice | None) -> Touched:
        """The EndpointSlice as it is now; None: it is gone."""
        before = self.slices.pop(ref, None)
        if before is not None:
            _discard(self._slices_of, (Ref(ref.namespace, before.service),), ref)
            _discard(self._slices_with, (one.address for one in before.endpoints), ref)
        if slice_ is not None:
            self.slices[ref] = slice_
            self._slices_of[Ref(ref.namespace, slice_.service)].add(ref)
            for endpoint in slice_.endpoints:
                self._slices_with[endpoint.address].add(ref)
        if before == slice_:
            return Touched()
        known = [one for one in (before, slice_) if one is not None]
        behind = {endpoint.address for one in known for endpoint in one.endpoints}
        return Touched(
            services=frozenset(Ref(ref.namespace, one.service) for one in known),
            # Whose endpoint a pod is, it wants to know itself.
            workloads=frozenset(
                self.workloads[pod].uid
                for address in behind
                for pod in self._workloads_at.get(address, ())
            ),
        )

    def put_workload(self, ref: Ref, workload: Workload | None) -> Touched:
        """The pod as it is now; None: it is gone, has ended, or has no address of its own."""
        before = self.workloads.pop(ref, None)
        if before is not None:
            _discard(self._workloads_at, before.addresses, ref)
            if self._by_uid.get(before.uid) == ref:
                del self._by_uid[before.uid]
        if workload is not None:
            self.workloads[ref] = workload
            self._by_uid[workload.uid] = ref
            for address in workload.addresses:
                self._workloads_at[address].add(ref)
        if before == workload:
            return Touched()
        known = [one for one in (before, workload) if one is not None]
        addresses = frozenset(address for one in known for address in one.addresses)
        return Touched(
            addresses,
            frozenset(ref for address in addresses for ref in self.services_with(address)),
            frozenset(one.uid for one in known),
        )

    # What it says

    def service_at(self, address: str, port: int) -> tuple[Service, ServicePort] | None:
        """The Service, and its port, that a destination means."""
        for ref in sorted(self._services_at.get(address, ())):
            service = self.services[ref]
            for each in service.ports:
                if each.number == port:
                    return service, each
        return None

    def workload_at(self, address: str) -> Workload | None:
        """The pod that has the address."""
        refs = self._workloads_at.get(address)
        if not refs:
            return None
        return self.workloads[max(refs, key=lambda ref: (self.workloads[ref].meshed, ref))]

    def services_with(self, address: str) -> set[Ref]:
        """The Services of which it is an endpoint."""
        slices = self._slices_with.get(address, ())
        return {Ref(slice_.namespace, self.slices[slice_].service) for slice_ in slices}

    def workload(self, uid: str) -> Workload | None:
        """The pod of this uid."""
        ref = self._by_uid.get(uid)
        return self.workloads[ref] if ref is not None else None

    def depends_on_viewpoint(self, ref: Ref) -> bool:
        """Whether clients in different places use different endpoints of the Service."""
        service = self.services.get(ref)
        if service is None:
            return False
        return service.node_local or any(one.zones for one in self._endpoints(ref))

    def targets(self, ref: Ref, port: ServicePort, viewpoint: Viewpoint) -> list[Target]:
        """Where a connection to the Service's port may go, from there; sorted.

        As kube-proxy chooses: what is ready; where nothing is, what still serves on its way out
        (KEP-1669); and by the node, or the zone, where the Service or its slices say so.
        """
        found: dict[tuple[str, int], Endpoint] = {}
        for slice_ in sorted(self._slices_of.get(ref, ())):
            held = self.slices[slice_]
            numbers = [each.number for each in held.ports if each.name == port.name]
            for endpoint in held.endpoints:
                for number in numbers:
                    key = (endpoint.address, number)
                    found[key] = _better(found.get(key), endpoint)
        service = self.services.get(ref)
        if service is not None and service.node_local:
            chosen = {key: one for key, one in found.items() if one.node == viewpoint.node}
            chosen = _usable(chosen)
        else:
            chosen = _of_zone(_usable(found), viewpoint.zone)
        return [
            Target(address, number, self.workload_at(address)) for address, number in sorted(chosen)
        ]

    def _endpoints(self, ref: Ref) -> Iterator[Endpoint]:
        for slice_ in self._slices_of.get(ref, ()):
            yield from self.slices[slice_].endpoints


_Found = dict[tuple[str, int], Endpoint]
_K = TypeVar("_K")


def _better(one: Endpoint | None, other: Endpoint) -> Endpoint:
    """Two slices may hold the same endpoint for a moment, while the controller moves it."""
    if one is None:
        return other
    return max(one, other, key=lambda each: (each.ready, each.serving))


def _usable(found: _Found) -> _Found:
    ready = {key: one for key, one in found.items() if one.ready}
    return ready or {key: one for key, one in found.items() if one.serving}


def _of_zone(found: _Found, zone: str) -> _Found:
    """As kube-proxy: hints count where all endpoints have one, and one of them is for us."""
    if not zone or not all(one.zones for one in found.values()):
        return found
    return {key: one for key, one in found.items() if zone in one.zones} or found


def _discard(index: defaultdict[_K, set[Ref]], keys: Iterable[_K], ref: Ref) -> None:
    for key in keys:
        members = index.get(key)
        if members is not None:
            members.discard(ref)
            if not members:
                del index[key]
