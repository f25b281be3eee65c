"""Who is served what: a relay by its token, and of pods its own node's alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from kubeapi.client import ApiServerError
from mesh.control.catalog import Catalog
from mesh.rpc.callers import Callers, StrangerError
from mesh.rpc.refusals import Refusals
from mesh.xds.server import DeltaService
from mesh.xds.session import Refusal
from mesh.xds.store import Source

_log = structlog.get_logger()


class Control:
    """Opens streams for relays."""

    def __init__(
        self,
        catalog: Catalog,
        callers: Callers,
        relay: tuple[str, str],
        registry: CollectorRegistry,
    ) -> None:
        """``relay`` is the namespace and service account of the relays."""
        self._catalog = catalog
        self._callers = callers
        self._relay = relay
        self._refusals = Refusals(registry, "mesh_control_refused")
        self.service = DeltaService(self._open, self._not_taken, whole=True)
        streams = Gauge("mesh_control_streams", "Relays that are connected.", registry=registry)
        streams.set_function(lambda: self.service.streams)
        wanted = Gauge(
            "mesh_control_resources_wanted", "Resources that somebody uses.", registry=registry
        )
        wanted.set_function(lambda: len(catalog.store))
        registry.register(_Pushed(self.service))

    async def _open(self, metadata: Mapping[str, Any]) -> Source:
        try:
            caller = await self._callers.who(metadata)
        except StrangerError as error:
            raise self._refusals.refuse(
                "stranger", "", str(error), Status.UNAUTHENTICATED
            ) from error
        except ApiServerError as error:
            raise GRPCError(Status.UNAVAILABLE, str(error)) from error
        if (caller.namespace, caller.account) != self._relay:
            text = f"{caller} is no relay of this mesh"
            raise self._refusals.refuse("not-a-relay", str(caller), text, Status.PERMISSION_DENIED)
        if not caller.node:
            text = f"{caller}: its token does not say on which node it is"
            raise self._refusals.refuse("no-node", str(caller), text, Status.PERMISSION_DENIED)
        _log.info("relay connected", node=caller.node)
        return self._catalog.view(caller.node)

    def _not_taken(self, refusal: Refusal) -> None:
        key = refusal.resource.key
        _log.error("a relay refuses a resource", name=key.name, error=refusal.why)


class _Pushed(Collector):
    def __init__(self, service: DeltaService) -> None:
        self._service = service

    def collect(self) -> list[CounterMetricFamily]:
        family = CounterMetricFamily("mesh_control_pushes", "Responses sent to relays.")
        family.add_metric([], self._service.pushed)
        return [family]
