"""Keeps the world as the API server says: Services, EndpointSlices, Pods, and nodes' zones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge

from kubeapi.client import METADATA, METADATA_LIST, ApiServer
from kubeapi.reading import NODES, PODS, SERVICES, Kind
from kubeapi.reflector import Collection, Reflector
from mesh.control.catalog import Catalog
from mesh.model.values import Ref
from mesh.model.world import Touched, World
from mesh.sources.kubernetes import read_pod, read_service, read_slice
from process.background import Work
from process.health import Check

ENDPOINT_SLICES = Kind("endpointslices", "discovery.k8s.io")
ZONE = "topology.kubernetes.io/zone"


class Metrics:
    """How the watches fare, and what they lead to."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register it."""
        self.known = Gauge(
            "mesh_control_objects", "Objects that are known.", ("kind",), registry=registry
        )
        self.contact = Gauge(
            "mesh_control_last_contact_timestamp_seconds",
            "When the API server last reported objects of a kind, as Unix time.",
            ("kind",),
            registry=registry,
        )
        self.failures = Counter(
            "mesh_control_watch_failures",
            "Lists and watches that failed, by kind and cause.",
            ("kind", "cause"),
            registry=registry,
        )
        self.changed = Counter(
            "mesh_control_resources_changed",
            "Resources that were translated anew and came out different.",
            registry=registry,
        )


class _Observer:
    def __init__(self, metrics: Metrics, kind: str) -> None:
        self._known = metrics.known.labels(kind)
        self._contact = metrics.contact.labels(kind)
        self._failures = metrics.failures
        self._kind = kind

    def in_touch(self, known: int) -> None:
        self._known.set(known)
        self._contact.set_to_current_time()

    def watch_failed(self, cause: str) -> None:
        self._failures.labels(self._kind, cause).inc()


class _Meta(msgspec.Struct, frozen=True):
    name: str = ""
    labels: dict[str, str] | None = None


class _Node(msgspec.Struct, frozen=True):
    metadata: _Meta = _Meta()


def read_zone(content: bytes) -> tuple[str, str]:
    """A node's zone; empty where it has none."""
    meta = msgspec.json.decode(content, type=_Node).metadata
    return meta.name, (meta.labels or {}).get(ZONE, "")


class Feed:
    """The watches of one control; its world is theirs."""

    def __init__(self, api: ApiServer, trust_domain: str, registry: CollectorRegistry) -> None:
        """Nothing is known before `work` runs."""
        self.world = World()
        self._metrics = Metrics(registry)
        self._zones: Reflector[str, str] = self._reflector(
            api, "nodes", NODES, read_zone, None, accept=METADATA, accept_list=METADATA_LIST
        )
        self.catalog = Catalog(self.world, trust_domain, lambda node: self._zones.get(node) or "")
        world = self.world
        slices = partial(self._put, world.put_slice)
        self._watched: dict[str, Reflector[Any, Any]] = {
            "services": self._reflector(
                api, "services", SERVICES, read_service, partial(self._put, world.put_service)
            ),
            "endpointslices": self._reflector(
                api, "endpointslices", ENDPOINT_SLICES, read_slice, slices
            ),
            "pods": self._reflector(
                api, "pods", PODS, read_pod, partial(self._put, world.put_workload)
            ),
            "nodes": self._zones,
        }

    def _reflector(
        self,
        api: ApiServer,
        what: str,
        kind: Kind,
        read: Callable[[bytes], tuple[Any, Any]],
        changed: Callable[[Any, Any], None] | None,
        **accept: str,
    ) -> Reflector[Any, Any]:
        collection = Collection(what=what, path=kind.path(), read=read, **accept)  # type: ignore[arg-type]
        return Reflector(api, collection, _Observer(self._metrics, what), changed)

    def _put(self, put: Callable[[Ref, Any], Touched], ref: Ref, value: Any) -> None:
        touched = put(ref, value)
        if touched:
            self._metrics.changed.inc(self.catalog.apply(touched))

    @property
    def checks(self) -> Mapping[str, Check]:
        """Whether everything has been listed once."""
        return {name: reflector.problem for name, reflector in self._watched.items()}

    @property
    def work(self) -> Mapping[str, Work]:
        """What has to run."""
        return {f"watch of {name}": each.run for name, each in self._watched.items()}
