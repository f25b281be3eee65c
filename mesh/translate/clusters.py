"""Clusters: one for each destination that a proxy asks about, and what is at the other end."""

from __future__ import annotations

from functools import cache
from typing import Any

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.address_pb2 import Address
from envoy.config.endpoint.v3.endpoint_components_pb2 import LbEndpoint
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.extensions.http.header_formatters.preserve_case.v3 import (  # noqa: F401
    preserve_case_pb2,
)
from envoy.extensions.transport_sockets.raw_buffer.v3 import raw_buffer_pb2  # noqa: F401
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2  # noqa: F401
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2  # noqa: F401
from google.protobuf.json_format import ParseDict

from mesh.model.values import Ref, ServicePort, Target, Workload
from mesh.model.world import Viewpoint, World
from mesh.translate.names import LOCAL, Destination, endpoints_name, parse_endpoints
from mesh.translate.types import CLUSTER, ENDPOINTS, resource
from mesh.xds.messages import Key, Resource
from vocabulary.envoy import (
    ADS,
    KEEPALIVE,
    http_protocol_options,
    mesh_tls,
    original_dst,
    thresholds,
)
from vocabulary.mesh import server_name

_TYPE = "type.googleapis.com/"
_MATCH = "envoy.transport_socket_match"
_CONNECT_TIMEOUT = "1s"


def cluster(world: World, destination: Destination, trust_domain: str) -> Resource:
    """The Cluster of a destination: a Service's endpoints, one pod, or whatever is there."""
    key = Key(CLUSTER, destination.cluster)
    found = world.service_at(destination.address, destination.port)
    if found is not None:
        service, port = found
        local = world.depends_on_viewpoint(service.ref)
        name = endpoints_name(service.ref, port.number, local=local)
        made = _made("service", tcp=destination.tcp)
        made.name = destination.cluster
        made.eds_cluster_config.service_name = name
        made.alt_stat_name = endpoints_name(service.ref, port.number)
        return resource(key, made, follows=(Key(ENDPOINTS, name),), source=f"service {service.ref}")
    target = Target(destination.address, destination.port, world.workload_at(destination.address))
    if (workload := target.meshed) is not None:
        made = _made("pod", tcp=destination.tcp)
        made.name = made.load_assignment.cluster_name = destination.cluster
        made.load_assignment.endpoints.add().lb_endpoints.append(_endpoint(target, trust_domain))
        made.alt_stat_name = f"{workload.ref.namespace}/{workload.owner or 'pod'}"
        return resource(key, made, source=f"pod {workload.ref}")
    made = _made("passthrough", tcp=destination.tcp)
    made.name = destination.cluster
    made.alt_stat_name = "passthrough"
    return resource(key, made, source=f"no service and no meshed pod at {destination.address}")


def endpoints(
    world: World,
    name: str,
    viewpoint: Viewpoint,
    trust_domain: str,
    oneself: Workload | None = None,
) -> Resource | None:
    """The ClusterLoadAssignment of that name; without endpoints where there are none, or no such
    Service any more. None where the name is none.

    ``oneself`` is the client, where it may be an endpoint itself.
    """
    parsed = parse_endpoints(name)
    if parsed is None:
        return None
    ref, number = parsed
    made = ClusterLoadAssignment(cluster_name=name)
    port = _port(world, ref, number)
    if port is not None:
        at = viewpoint if name.endswith(LOCAL) else Viewpoint()
        locality = made.endpoints.add()
        locality.lb_endpoints.extend(
            _endpoint(target, trust_domain, oneself) for target in world.targets(ref, port, at)
        )
    return resource(Key(ENDPOINTS, name), made, source=f"endpoints of service {ref}")


def _port(world: World, ref: Ref, number: int) -> ServicePort | None:
    service = world.services.get(ref)
    ports = service.ports if service is not None else ()
    return next((each for each in ports if each.number == number), None)


def _endpoint(target: Target, trust_domain: str, oneself: Workload | None = None) -> LbEndpoint:
    made = LbEndpoint()
    made.endpoint.address.CopyFrom(_address(target.address, target.port))
    workload = target.meshed
    if workload is not None and workload != oneself:
        # Envoy asks for it by SNI, and holds the certificate to it.
        made.endpoint.hostname = server_name(
            trust_domain, workload.ref.namespace, workload.service_account
        )
        made.metadata.filter_metadata[_MATCH]["mtls"] = True
    if target.workload is not None:
        seen = made.metadata.filter_metadata["meshgraft"]
        seen["namespace"] = target.workload.ref.namespace
        seen["owner"] = target.workload.owner
        seen["pod"] = target.workload.ref.name
    return made


def _address(host: str, port: int) -> Address:
    made = Address()
    made.socket_address.address = host
    made.socket_address.port_value = port
    return made


# What all of a kind have in common, made once


def _made(kind: str, *, tcp: bool) -> Cluster:
    made = Cluster()
    made.CopyFrom(_template(kind, tcp=tcp))
    return made


@cache
def _template(kind: str, *, tcp: bool) -> Cluster:
    if kind == "passthrough":
        made = original_dst("", _CONNECT_TIMEOUT)
    else:
        made = {
            "connect_timeout": _CONNECT_TIMEOUT,
            "lb_policy": "LEAST_REQUEST",
            "circuit_breakers": thresholds(),
            "upstream_connection_options": {"tcp_keepalive": KEEPALIVE},
            "transport_socket_matches": _transport_socket_matches(),
            "typed_extension_protocol_options": http_protocol_options(),
            **(
                {"type": "EDS", "eds_cluster_config": {"eds_config": ADS}}
                if kind == "service"
                else {"type": "STATIC"}
            ),
        }
    if tcp:
        del made["typed_extension_protocol_options"]
    return ParseDict(made, Cluster())


def _transport_socket_matches() -> list[Any]:
    """The mesh's TLS to endpoints with an identity, and to no others."""
    tls = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
    context = {
        "@type": _TYPE + tls,
        "common_tls_context": mesh_tls(),
        "auto_host_sni": True,
        "auto_sni_san_validation": True,
    }
    raw = "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"
    return [
        {
            "name": "mtls",
            "match": {"mtls": True},
            "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": context},
        },
        {
            "name": "plain",
            "match": {},
            "transport_socket": {
                "name": "envoy.transport_sockets.raw_buffer",
                "typed_config": {"@type": _TYPE + raw},
            },
        },
    ]
