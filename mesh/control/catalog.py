"""Resources on demand: what is asked for is translated, and again when what it stands on changes.

Keys within are those that proxies use, and more where one name means different things: the node of
the client after ``@``, where a Service's endpoints depend on it, and the client's own uid after
``#``, where it is an endpoint itself.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mesh.model.values import Ref
from mesh.model.world import Touched, Viewpoint, World
from mesh.translate import clusters, routes
from mesh.translate.names import LOCAL, parse_destination, parse_endpoints
from mesh.translate.types import CLUSTER, ENDPOINTS, ROUTES
from mesh.xds.messages import Key, Resource, digest
from mesh.xds.store import Store
from mesh.xds.view import View
from vocabulary.mesh import ALIASES, INBOUND_ROUTES, OUTBOUND_ROUTES

_Name = Ref | str
_Index = defaultdict[_Name, set[Key]]


@dataclass(frozen=True, slots=True)
class _Standing:
    """What a resource stands on."""

    services: frozenset[Ref] = frozenset()
    addresses: frozenset[str] = frozenset()
    uids: frozenset[str] = frozenset()


class Catalog:
    """A store that fills itself from the world, with what somebody watches and nothing else."""

    def __init__(self, world: World, trust_domain: str, zone_of: Callable[[str], str]) -> None:
        """``zone_of`` says in which zone a node is; empty where that is not known."""
        self._world = world
        self._trust_domain = trust_domain
        self._zone_of = zone_of
        self.store = Store(on_wanted=self._wanted, on_unwanted=self._unwanted)
        self._standing: dict[Key, _Standing] = {}
        self._by_service: _Index = defaultdict(set)
        self._by_address: _Index = defaultdict(set)
        self._by_uid: _Index = defaultdict(set)

    def view(self, node: str) -> View:
        """What a node is served: of pods, only its own are spoken of."""

        def inner(key: Key) -> Key:
            name, hash_, uid = key.name.partition("#")
            if key.type_url == ENDPOINTS and name.endswith(LOCAL):
                return Key(key.type_url, f"{name}@{node}{hash_}{uid}")
            return key

        def permits(key: Key) -> bool:
            uid = key.name if key.type_url == ALIASES else key.name.partition("#")[2]
            return not uid or self._is_on(uid, node)

        return View(self.store, inner, permits)

    def apply(self, touched: Touched) -> int:
        """Translate anew what the change concerns; how many resources it changed."""
        keys: set[Key] = set()
        for service in touched.services:
            keys |= self._by_service.get(service, set())
        for address in touched.addresses:
            keys |= self._by_address.get(address, set())
        for uid in touched.workloads:
            keys |= self._by_uid.get(uid, set())
        # Clusters first, so that their endpoints are not sent to nobody.
        return sum(self._put(key) for key in sorted(keys))

    def _is_on(self, uid: str, node: str) -> bool:
        workload = self._world.workload(uid)
        return workload is not None and workload.node == node

    def _wanted(self, key: Key) -> None:
        self._put(key)

    def _unwanted(self, key: Key) -> None:
        self._stand(key, None)
        self.store.forget(key)

    def _put(self, key: Key) -> bool:
        made = self._make(key)
        if made is None:
            return False
        resource, standing = made
        self._stand(key, standing)
        return resource is not None and self.store.put(resource)

    def _stand(self, key: Key, standing: _Standing | None) -> None:
        before = self._standing.pop(key, None)
        if before is not None:
            for index, each in self._indexes(before):
                index[each].discard(key)
                if not index[each]:
                    del index[each]
        if standing is not None:
            self._standing[key] = standing
            for index, each in self._indexes(standing):
                index[each].add(key)

    def _indexes(self, standing: _Standing) -> Iterator[tuple[_Index, _Name]]:
        for service in standing.services:
            yield self._by_service, service
        for address in standing.addresses:
            yield self._by_address, address
        for uid in standing.uids:
            yield self._by_uid, uid

    # Translation, by type

    def _make(self, key: Key) -> tuple[Resource | None, _Standing] | None:
        """None where the key means nothing."""
        if key.type_url == CLUSTER:
            return self._cluster(key)
        if key.type_url == ENDPOINTS:
            return self._endpoints(key)
        if key.type_url == ALIASES:
            return self._aliases(key)
        if key.type_url == ROUTES and key.name in _ROUTES:
            return _ROUTES[key.name](), _Standing()
        return None

    def _cluster(self, key: Key) -> tuple[Resource, _Standing] | None:
        destination = parse_destination(key.name)
        if destination is None:
            return None
        found = self._world.service_at(destination.address, destination.port)
        standing = _Standing(
            services=frozenset((found[0].ref,)) if found else frozenset(),
            addresses=frozenset((destination.address,)),
        )
        return clusters.cluster(self._world, destination, self._trust_domain), standing

    def _endpoints(self, key: Key) -> tuple[Resource | None, _Standing] | None:
        rest, _, uid = key.name.partition("#")
        outer, _, node = rest.partition("@")
        parsed = parse_endpoints(outer)
        if parsed is None:
            return None
        viewpoint = Viewpoint(node, self._zone_of(node) if node else "")
        oneself = self._world.workload(uid) if uid else None
        standing = _Standing(frozenset((parsed[0],)), uids=frozenset((uid,) if uid else ()))
        if uid and oneself is None:
            return None, standing  # Not known yet: whether it may be told will be seen then.
        made = clusters.endpoints(self._world, outer, viewpoint, self._trust_domain, oneself)
        # What is kept has its inner name: views rename it.
        return made.renamed(key.name) if made else None, standing

    def _aliases(self, key: Key) -> tuple[Resource | None, _Standing]:
        """To a pod that is an endpoint of a Service, its endpoints are others: it reaches itself
        over loopback, where no proxy is on the way that could take the mesh's TLS off."""
        standing = _Standing(uids=frozenset((key.name,)))
        workload = self._world.workload(key.name)
        if workload is None:
            return None, standing
        services = sorted(
            {ref for address in workload.addresses for ref in self._world.services_with(address)}
        )
        value = json.dumps({ENDPOINTS: [f"{ref}:" for ref in services]}).encode()
        made = Resource(key, digest(value), value, source=f"pod {workload.ref}")
        return made, standing


_ROUTES: dict[str, Callable[[], Resource]] = {
    OUTBOUND_ROUTES: routes.outbound,
    INBOUND_ROUTES: routes.inbound,
}
