"""Services, EndpointSlices and Pods as the API server sends them: what the mesh reads of each.

Decoding skips everything else, so that a cluster's objects take as little memory as their meaning.
Sources: core/v1, discovery.k8s.io/v1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import msgspec

from mesh.model.values import Endpoint, EndpointSlice, Ref, Service, ServicePort, Workload
from vocabulary.annotations.redirect import ANNOTATION, BadRedirect, Redirect, parse_redirect
from vocabulary.mesh import ENABLED, MESH_ANNOTATION

SERVICE_NAME = "kubernetes.io/service-name"
"""Label of an EndpointSlice: its Service."""
_PROXY = "envoy-proxy"
_ENDED = ("Succeeded", "Failed")

T = TypeVar("T")


class _Meta(msgspec.Struct, frozen=True, rename="camel"):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    deletion_timestamp: str | None = None
    owner_references: list[_Owner] | None = None

    @property
    def ref(self) -> Ref:
        return Ref(self.namespace or "default", self.name)


class _Owner(msgspec.Struct, frozen=True):
    kind: str = ""
    name: str = ""
    controller: bool = False


class _Port(msgspec.Struct, frozen=True, rename="camel"):
    name: str | None = None
    port: int | None = None
    protocol: str | None = "TCP"


class _ServiceSpec(msgspec.Struct, frozen=True, rename="camel"):
    type: str = "ClusterIP"
    cluster_ip: str | None = msgspec.field(default=None, name="clusterIP")
    cluster_ips: list[str] | None = msgspec.field(default=None, name="clusterIPs")
    ports: list[_Port] | None = None
    internal_traffic_policy: str | None = None


class _ServiceObject(msgspec.Struct, frozen=True):
    metadata: _Meta
    spec: _ServiceSpec = _ServiceSpec()


class _Conditions(msgspec.Struct, frozen=True):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class _Zone(msgspec.Struct, frozen=True):
    name: str = ""


class _Hints(msgspec.Struct, frozen=True, rename="camel"):
    for_zones: list[_Zone] | None = None


class _Endpoint(msgspec.Struct, frozen=True, rename="camel"):
    addresses: list[str]
    conditions: _Conditions | None = None
    node_name: str | None = None
    hints: _Hints | None = None


class _SliceObject(msgspec.Struct, frozen=True, rename="camel"):
    metadata: _Meta
    address_type: str = "IPv4"
    ports: list[_Port] | None = None
    endpoints: list[_Endpoint] | None = None


class _Container(msgspec.Struct, frozen=True):
    name: str = ""


class _PodSpec(msgspec.Struct, frozen=True, rename="camel"):
    node_name: str = ""
    service_account_name: str = "default"
    host_network: bool = False
    containers: list[_Container] | None = None
    init_containers: list[_Container] | None = None


class _IP(msgspec.Struct, frozen=True):
    ip: str = ""


class _PodStatus(msgspec.Struct, frozen=True, rename="camel"):
    phase: str = ""
    pod_ip: str | None = msgspec.field(default=None, name="podIP")
    pod_ips: list[_IP] | None = msgspec.field(default=None, name="podIPs")


class _PodObject(msgspec.Struct, frozen=True):
    metadata: _Meta
    spec: _PodSpec = _PodSpec()
    status: _PodStatus = _PodStatus()


_services = msgspec.json.Decoder(_ServiceObject)
_slices = msgspec.json.Decoder(_SliceObject)
_pods = msgspec.json.Decoder(_PodObject)


def read_service(content: bytes) -> tuple[Ref, Service | None]:
    """A Service; None in its place where it has no address of its own (headless, ExternalName): it
    is reached by its pods' addresses, or is not the mesh's to know.

    Raises:
        msgspec.DecodeError: it is none.
    """
    obj = _services.decode(content)
    ref, spec = obj.metadata.ref, obj.spec
    given = spec.cluster_ips or ([spec.cluster_ip] if spec.cluster_ip else [])
    addresses = tuple(each for each in given if each and each != "None")
    if spec.type == "ExternalName" or not addresses:
        return ref, None
    local = spec.internal_traffic_policy == "Local"
    return ref, Service(ref, addresses, _ports(spec.ports), node_local=local)


def read_slice(content: bytes) -> tuple[Ref, EndpointSlice | None]:
    """An EndpointSlice; None in its place where no Service has it, or its addresses are names.

    Raises:
        msgspec.DecodeError: it is none.
    """
    obj = _slices.decode(content)
    ref = obj.metadata.ref
    service = (obj.metadata.labels or {}).get(SERVICE_NAME)
    if not service or obj.address_type not in ("IPv4", "IPv6"):
        return ref, None
    endpoints = tuple(_endpoint(each) for each in obj.endpoints or () if each.addresses)
    return ref, EndpointSlice(ref, service, _ports(obj.ports), endpoints)


def _endpoint(given: _Endpoint) -> Endpoint:
    conditions = given.conditions or _Conditions()
    # "nil should be interpreted as true", and serving as ready.
    ready = conditions.ready is not False
    serving = ready if conditions.serving is None else conditions.serving
    zones = (given.hints.for_zones if given.hints else None) or ()
    return Endpoint(
        address=given.addresses[0],
        ready=ready,
        serving=serving,
        node=given.node_name or "",
        zones=frozenset(each.name for each in zones),
    )


def _ports(given: Sequence[_Port] | None) -> tuple[ServicePort, ...]:
    return tuple(
        ServicePort(each.name or "", each.port)
        for each in given or ()
        if each.port and each.protocol in (None, "TCP")
    )


def read_pod(content: bytes) -> tuple[Ref, Workload | None]:
    """A pod; None in its place where it has no network of its own, or none any more.

    Raises:
        msgspec.DecodeError: it is none.
    """
    obj = _pods.decode(content)
    meta, spec, status = obj.metadata, obj.spec, obj.status
    addresses = tuple(each.ip for each in status.pod_ips or () if each.ip)
    if not addresses and status.pod_ip:
        addresses = (status.pod_ip,)
    if spec.host_network or not addresses or status.phase in _ENDED:
        return meta.ref, None
    redirect = _redirect(meta)
    return meta.ref, Workload(
        ref=meta.ref,
        uid=meta.uid,
        node=spec.node_name,
        service_account=spec.service_account_name or "default",
        addresses=addresses,
        meshed=redirect is not None and _is_meshed(meta, spec),
        owner=_owner(meta),
        past_the_proxy=redirect.skip_inbound_ports if redirect else (),
        only=redirect.only_inbound_ports if redirect else (),
    )


def _is_meshed(meta: _Meta, spec: _PodSpec) -> bool:
    """What the injector wrote, and that the proxy is really there: anybody can write."""
    held = (*(spec.containers or ()), *(spec.init_containers or ()))
    asked = (meta.annotations or {}).get(MESH_ANNOTATION) == ENABLED
    return asked and any(each.name == _PROXY for each in held)


def _redirect(meta: _Meta) -> Redirect | None:
    text = (meta.annotations or {}).get(ANNOTATION)
    try:
        return parse_redirect(text) if text else None
    except BadRedirect:
        # Its rules were not set either: the plugin has refused the pod, and said why.
        return None


def _owner(meta: _Meta) -> str:
    owners = meta.owner_references or ()
    owner = next((each for each in owners if each.controller), None)
    if owner is None:
        return f"pod/{meta.name}"
    hash_ = (meta.labels or {}).get("pod-template-hash")
    if owner.kind == "ReplicaSet" and hash_ and owner.name.endswith(f"-{hash_}"):
        return f"deployment/{owner.name[: -len(hash_) - 1]}"
    return f"{owner.kind.lower()}/{owner.name}"
