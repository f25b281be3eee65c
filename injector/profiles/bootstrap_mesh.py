"""What the mesh adds to Envoy's bootstrap: where resources come from, and the mesh's TLS.

Listeners stay static. By xDS come Clusters (on demand, called by where a connection was going) with
their endpoints, routes, and the pod's certificate; nothing listens before the routes are there, and
nothing is ready before there is a certificate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any

from vocabulary.annotations import PortRange
from vocabulary.envoy import ADS, TYPE, Json, http2, mesh_tls
from vocabulary.mesh import (
    DESTINATION_HEADER,
    SOCKET,
    TCP_PREFIX,
    server_suffix,
)

_FILTERS = TYPE + "envoy.extensions.filters."
_LOOKUP = "3s"
"""How long a request waits for its destination; then it is answered with 503."""
HTTP_PROTOCOLS = ("http/1.0", "http/1.1", "h2c")


@dataclass(frozen=True, slots=True)
class MeshConfig:
    """What differs between two pods of the mesh."""

    trust_domain: str
    networks: tuple[str, ...]
    """CIDRs of the cluster: only destinations there are asked about."""
    policy: str = "all-unauthenticated"
    """``default-inbound-policy``."""
    identity_ports: tuple[PortRange, ...] = ()
    """Inbound ports that take nothing without an identity, whatever the policy says."""


def parse_networks(text: str) -> tuple[str, ...]:
    """CIDRs from a list with commas, as ``clusterNetworks`` has it.

    Raises:
        ValueError: one is none.
    """
    return tuple(
        str(ip_network(each.strip(), strict=False)) for each in text.split(",") if each.strip()
    )


def dynamic_resources() -> Json:
    """One stream for everything; tried again within two seconds, not within Envoy's 24."""
    back_off = {"base_interval": "0.2s", "max_interval": "2s"}
    stream = {"cluster_name": "xds", "retry_policy": {"retry_back_off": back_off}}
    return {
        "ads_config": {
            "api_type": "DELTA_GRPC",
            "transport_api_version": "V3",
            "set_node_on_first_message_only": True,
            "grpc_services": [{"envoy_grpc": stream}],
        },
        "cds_config": ADS,
    }


def xds_cluster() -> Json:
    """The relay: an abstract socket in the pod's own network namespace."""
    options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    address = {"pipe": {"path": SOCKET}}
    return {
        "name": "xds",
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": "xds",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
        "typed_extension_protocol_options": {
            options: {
                "@type": TYPE + options,
                "explicit_http_config": {
                    "http2_protocol_options": {
                        **http2(),
                        "connection_keepalive": {"interval": "30s", "timeout": "5s"},
                    }
                },
            }
        },
    }


# --- outbound ----------------------------------------------------------------------------------


def outbound_chains(mesh: MeshConfig, http: Json, tcp: Json) -> list[Json]:
    """The filter chains for destinations in the cluster, made of those that serve all others:
    ``http`` and ``tcp`` are the filters of these."""
    within = {"prefix_ranges": [_prefix(each) for each in mesh.networks]}
    return [
        {
            "name": "mesh-http",
            "filter_chain_match": {**within, "application_protocols": [*HTTP_PROTOCOLS]},
            "filters": [_on_demand_http(http)],
        },
        {"name": "mesh-tcp", "filter_chain_match": within, "filters": _on_demand_tcp(tcp)},
    ]


def _prefix(network: str) -> Json:
    parsed = ip_network(network, strict=False)
    return {"address_prefix": str(parsed.network_address), "prefix_len": parsed.prefixlen}


def _on_demand_http(http: Json) -> Json:
    config = {**http["typed_config"]}
    del config["route_config"]
    on_demand = {
        "name": "envoy.filters.http.on_demand",
        "typed_config": {
            "@type": _FILTERS + "http.on_demand.v3.OnDemand",
            "odcds": {"source": ADS, "timeout": _LOOKUP},
        },
    }
    # Overwritten, so that no client chooses where it is sent to; the routes take it out again.
    mutation = {
        "header": {"key": DESTINATION_HEADER, "value": "%DOWNSTREAM_LOCAL_ADDRESS%"},
        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
    }
    early = "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation"
    config.update(
        http_filters=[on_demand, *config["http_filters"]],
        early_header_mutation_extensions=[
            {
                "name": "destination",
                "typed_config": {"@type": TYPE + early, "mutations": [{"append": mutation}]},
            }
        ],
        rds=_rds("outbound"),
    )
    return {**http, "typed_config": config}


def _on_demand_tcp(tcp: Json) -> list[Json]:
    key = "envoy.tcp_proxy.cluster"
    text = {"text_format_source": {"inline_string": f"{TCP_PREFIX}%DOWNSTREAM_LOCAL_ADDRESS%"}}
    choose = {
        "name": "envoy.filters.network.set_filter_state",
        "typed_config": {
            "@type": _FILTERS + "network.set_filter_state.v3.Config",
            "on_new_connection": [{"object_key": key, "format_string": text, "factory_key": key}],
        },
    }
    on_demand = {"odcds_config": ADS, "timeout": _LOOKUP}
    return [choose, {**tcp, "typed_config": {**tcp["typed_config"], "on_demand": on_demand}}]


def _rds(name: str) -> Json:
    # No time-out: a listener that gave up waiting would be there without any route.
    source = {**ADS, "initial_fetch_timeout": "0s"}
    return {"config_source": source, "route_config_name": name}


# --- inbound -----------------------------------------------------------------------------------


def tls_inspector() -> Json:
    """Reads the first bytes to tell the mesh's TLS from an application's own: by the SNI."""
    return {
        "name": "envoy.filters.listener.tls_inspector",
        "typed_config": {"@type": _FILTERS + "listener.tls_inspector.v3.TlsInspector"},
    }


def inbound_chains(mesh: MeshConfig, http: Json, tcp: Json) -> list[Json]:
    """The filter chains of all that comes in, by whether it proves who it is; ``http`` and ``tcp``
    are the filters of what goes on to the application. The last is for everything else."""
    by_name = {
        "transport_protocol": "tls",
        "server_names": [f"*.{server_suffix(mesh.trust_domain)}"],
    }
    known, unknown = _rules(mesh, proven=True), _rules(mesh, proven=False)
    secured = _inbound_http(http, "SANITIZE_SET")
    # An identity that nobody proved is not to be passed on as if somebody had.
    open_ = _inbound_http(http, "SANITIZE")
    return [
        {
            "name": "mesh-http",
            "filter_chain_match": {**by_name, "application_protocols": ["h2", "http/1.1"]},
            "transport_socket": _server_tls(),
            "filters": [_guarded_http(secured, known)],
        },
        {
            "name": "mesh-tcp",
            "filter_chain_match": by_name,
            "transport_socket": _server_tls(),
            "filters": [*_guards(known), tcp],
        },
        {
            "name": "plain-http",
            "filter_chain_match": {"application_protocols": [*HTTP_PROTOCOLS]},
            "filters": [_guarded_http(open_, unknown)],
        },
        {"name": "plain-tcp", "filters": [*_guards(unknown), tcp]},
    ]


def _inbound_http(http: Json, forwarded: str) -> Json:
    config = {**http["typed_config"]}
    del config["route_config"]
    config.update(rds=_rds("inbound"), forward_client_cert_details=forwarded)
    if forwarded == "SANITIZE_SET":
        config["set_current_client_cert_details"] = {"uri": True}
    return {**http, "typed_config": config}


def _server_tls() -> Json:
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": TYPE + "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {**mesh_tls(), "alpn_protocols": ["h2", "http/1.1"]},
            "require_client_certificate": True,
        },
    }


# --- the inbound policy -------------------------------------------------------------------------

_ANY: Json = {"any": True}


def _rules(mesh: MeshConfig, *, proven: bool) -> Json | None:
    """Envoy's RBAC for connections whose client has proven who it is, or has not; None where all
    of them may pass. Source: Linkerd's ``default-inbound-policy``."""
    scope, _, wants = mesh.policy.rpartition("-")
    allowed: list[Json] = []
    if mesh.policy == "audit" or (scope and (proven or wants == "unauthenticated")):
        who: Json = _ANY
        if scope == "cluster":
            ranges = [{"direct_remote_ip": _prefix(each)} for each in mesh.networks]
            who = {"or_ids": {"ids": ranges}}
        allowed.append(who)
    identified = [] if proven else [_port(each) for each in mesh.identity_ports]
    if allowed == [_ANY] and not identified:
        return None
    permission: Json = _ANY
    if identified:
        permission = {"not_rule": {"or_rules": {"rules": identified}}}
    policies = {"inbound": {"permissions": [permission], "principals": allowed}} if allowed else {}
    return {"action": "ALLOW", "policies": policies}


def _port(ports: PortRange) -> Json:
    return {"destination_port_range": {"start": ports.lower, "end": ports.upper + 1}}


def _guarded_http(http: Json, rules: Json | None) -> Json:
    """A request that may not pass is answered with 403."""
    if rules is None:
        return http
    guard = {
        "name": "envoy.filters.http.rbac",
        "typed_config": {"@type": _FILTERS + "http.rbac.v3.RBAC", "rules": rules},
    }
    config: dict[str, Any] = http["typed_config"]
    filters: Sequence[Json] = config["http_filters"]
    return {**http, "typed_config": {**config, "http_filters": [guard, *filters]}}


def _guards(rules: Json | None) -> list[Json]:
    """A connection that may not pass is closed."""
    if rules is None:
        return []
    config = {"@type": _FILTERS + "network.rbac.v3.RBAC", "rules": rules, "stat_prefix": "inbound"}
    return [{"name": "envoy.filters.network.rbac", "typed_config": config}]
