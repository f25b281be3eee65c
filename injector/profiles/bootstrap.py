"""Envoy's bootstrap as one value: a transparent proxy that needs no ConfigMap and no control plane.

What a connection meets, in both directions: the original destination is read back from
conntrack, HTTP/1, HTTP/2 and gRPC are detected, everything else passes as TCP, and the
connection goes on to where it was going. What Envoy does of its own accord elsewhere (time-outs
on streams, headers, retries, limits on parallel requests) is switched off: an application is
not to notice. What one client may make Envoy hold is bounded, far above what applications take.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from injector.profiles.bootstrap_mesh import (
    HTTP_PROTOCOLS,
    MeshConfig,
    dynamic_resources,
    inbound_chains,
    outbound_chains,
    tls_inspector,
    xds_cluster,
)
from vocabulary.annotations import PortRange
from vocabulary.envoy import KEEPALIVE, http1, http2, original_dst

Json = dict[str, Any]

_TYPE = "type.googleapis.com/"
_FILTERS = _TYPE + "envoy.extensions.filters."

MOST_HEADER_KIB = 64
"""Of a request, as RFC 9113 counts them; Envoy's default is 60, and most servers take 8 to 64."""
MOST_CONNECTIONS = 50_000
"""From outside and from the application together, where the container has no memory limit."""
_CONNECTION_BYTES = 32 * 1024
"""With a memory limit there are as many as this would fit into it."""
_HEAP = "envoy.resource_monitors.fixed_heap"
_CONNECTIONS = "envoy.resource_monitors.global_downstream_max_connections"
_OVERLOADED = {
    "shrink_heap": 0.8,
    "disable_http_keepalive": 0.9,
    "stop_accepting_requests": 0.95,
    "stop_accepting_connections": 0.97,
}
"""Shares of the heap at which Envoy begins to defend itself."""


@dataclass(frozen=True, slots=True)
class EnvoyConfig:
    """What differs between two pods' bootstraps. Time-outs are in seconds."""

    inbound_port: int
    outbound_port: int
    admin_port: int
    control_port: int
    """Envoy's own admin interface, on loopback only."""
    inbound_opaque_ports: tuple[PortRange, ...] = ()
    outbound_opaque_ports: tuple[PortRange, ...] = ()
    inbound_connect_timeout: float = 0.1
    outbound_connect_timeout: float = 1.0
    inbound_detect_timeout: float = 10.0
    outbound_detect_timeout: float = 10.0
    """How long to wait for a client that says nothing, before the connection passes as TCP;
    0 waits for ever."""
    ipv6: bool = False
    memory_limit: int = 0
    """Of the container, in bytes; 0 is none."""
    access_log: str = ""
    shutdown_endpoint: bool = False
    trace_collector: tuple[str, int] | None = None
    """Host and port of an OpenTelemetry collector that takes gRPC."""
    trace_service: str = ""
    trace_sampling: float = 0.0
    """Percent of the requests that begin a trace where the client began none."""
    mesh: MeshConfig | None = None
    """None: the proxy passes traffic on, and needs nobody."""


def bootstrap(config: EnvoyConfig) -> Json:
    """The whole bootstrap, as the JSON that ``--config-yaml`` takes."""
    return {
        "admin": {
            "address": _address("127.0.0.1", config.control_port),
        },
        **({"dynamic_resources": dynamic_resources()} if config.mesh else {}),
        "static_resources": {
            "listeners": [_inbound(config), _outbound(config), _admin_listener(config)],
            "clusters": [
                *_collector_clusters(config),
                original_dst("inbound", _seconds(config.inbound_connect_timeout)),
                original_dst("outbound", _seconds(config.outbound_connect_timeout)),
                _admin_cluster(config.control_port),
                {"name": "blackhole", "type": "STATIC", "connect_timeout": "1s"},
                *([xds_cluster()] if config.mesh else []),
            ],
        },
        "overload_manager": _overload_manager(config.memory_limit),
    }


def _most_connections(memory_limit: int) -> int:
    return max(100, memory_limit // _CONNECTION_BYTES) if memory_limit else MOST_CONNECTIONS


def _overload_manager(memory_limit: int) -> Json:
    """Turns new work away before the kernel ends the whole proxy, and all connections with it.

    Source: Envoy's "Configuring Envoy as an edge proxy", with the container's limit.
    """
    monitors = [
        {
            "name": _CONNECTIONS,
            "typed_config": {
                "@type": _TYPE + "envoy.extensions.resource_monitors"
                ".downstream_connections.v3.DownstreamConnectionsConfig",
                "max_active_downstream_connections": _most_connections(memory_limit),
            },
        }
    ]
    if not memory_limit:
        return {"resource_monitors": monitors}
    heap = {
        "name": _HEAP,
        "typed_config": {
            "@type": _TYPE + "envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig",
            # The heap is not all: stacks, code and what the allocator keeps are outside.
            "max_heap_size_bytes": max(1, memory_limit * 4 // 5),
        },
    }
    actions = [
        {
            "name": f"envoy.overload_actions.{name}",
            "triggers": [{"name": _HEAP, "threshold": {"value": value}}],
        }
        for name, value in _OVERLOADED.items()
    ]
    return {
        "refresh_interval": "0.01s",
        "resource_monitors": [heap, *monitors],
        "actions": actions,
    }


def _address(host: str, port: int) -> Json:
    return {"socket_address": {"address": host, "port_value": port}}


def _seconds(value: float) -> str:
    return f"{value:.9f}".rstrip("0").rstrip(".") + "s"


# --- listeners ---------------------------------------------------------------------------------


def _inbound(config: EnvoyConfig) -> Json:
    listener = _transparent_listener(
        config,
        name="inbound",
        hosts=("0.0.0.0", "::"),
        port=config.inbound_port,
        opaque=config.inbound_opaque_ports,
        detect_timeout=config.inbound_detect_timeout,
    )
    if config.mesh:
        tcp = _tcp_proxy("inbound", "inbound", config)
        *chains, rest = inbound_chains(config.mesh, _http_proxy("inbound", config), tcp)
        destination, http = listener["listener_filters"]
        listener["listener_filters"] = [destination, tls_inspector(), http]
        listener["filter_chains"] = [listener["filter_chains"][0], *chains]
        listener["default_filter_chain"] = rest
    return listener


def _outbound(config: EnvoyConfig) -> Json:
    # nat REDIRECT sends locally made connections to loopback, so nothing else needs to reach it.
    listener = _transparent_listener(
        config,
        name="outbound",
        hosts=("127.0.0.1", "::1"),
        port=config.outbound_port,
        opaque=config.outbound_opaque_ports,
        detect_timeout=config.outbound_detect_timeout,
    )
    if config.mesh:
        http, tcp = _http_proxy("outbound", config), _tcp_proxy("outbound", "outbound", config)
        listener["filter_chains"] += outbound_chains(config.mesh, http, tcp)
    return listener


def _transparent_listener(
    config: EnvoyConfig,
    *,
    name: str,
    hosts: tuple[str, str],
    port: int,
    opaque: Sequence[PortRange],
    detect_timeout: float,
) -> Json:
    listener = {
        "name": name,
        "stat_prefix": name,
        "address": _address(hosts[0], port),
        "traffic_direction": name.upper(),
        "tcp_keepalive": KEEPALIVE,
        "listener_filters": [
            _named("envoy.filters.listener.original_dst", "listener.original_dst.v3.OriginalDst"),
            _http_inspector(opaque),
        ],
        "listener_filters_timeout": _seconds(detect_timeout),
        "continue_on_listener_filters_timeout": True,
        "filter_chains": [
            # A connection made to the listener itself would be sent to itself, for ever.
            {
                "filter_chain_match": {"destination_port": port},
                "filters": [_tcp_proxy(f"{name}_loop", "blackhole", config)],
            },
            {
                "filter_chain_match": {"application_protocols": [*HTTP_PROTOCOLS]},
                "filters": [_http_proxy(name, config)],
            },
        ],
        "default_filter_chain": {"filters": [_tcp_proxy(name, name, config)]},
    }
    if config.ipv6:
        listener["additional_addresses"] = [{"address": _address(hosts[1], port)}]
    return listener


def _named(name: str, type_name: str, **fields: Any) -> Json:
    return {"name": name, "typed_config": {"@type": _FILTERS + type_name, **fields}}


def _http_inspector(opaque: Sequence[PortRange]) -> Json:
    """Reads the first bytes to tell HTTP from anything else. On an opaque port it must not even
    look: a server that speaks first would wait for a client that waits for the server."""
    inspector = _named(
        "envoy.filters.listener.http_inspector", "listener.http_inspector.v3.HttpInspector"
    )
    ranges: list[Json] = [  # the end is exclusive
        {"destination_port_range": {"start": ports.lower, "end": ports.upper + 1}}
        for ports in _merged(opaque)
    ]
    if len(ranges) == 1:
        inspector["filter_disabled"] = ranges[0]
    elif ranges:
        inspector["filter_disabled"] = {"or_match": {"rules": ranges}}
    return inspector


def _merged(ranges: Sequence[PortRange]) -> list[PortRange]:
    """The same ports in as few ranges as can be: all of this goes into one argument, of which
    Linux takes 128 KiB, and users do list a thousand ports one by one."""
    merged: list[PortRange] = []
    for ports in sorted(ranges):
        if merged and ports.lower <= merged[-1].upper + 1:
            last = merged.pop()
            merged.append(PortRange(last.lower, max(last.upper, ports.upper)))
        else:
            merged.append(ports)
    return merged


def _admin_listener(config: EnvoyConfig) -> Json:
    """What the pod network may see of Envoy: whether it is ready, and its metrics. Read only."""
    routes = [
        {
            "match": _get("/live"),
            "direct_response": {"status": 200, "body": {"inline_string": "live\n"}},
        },
        {"match": _get("/ready"), "route": {"cluster": "admin"}},
        {
            "match": _get("/metrics"),
            "route": {"cluster": "admin", "prefix_rewrite": "/stats/prometheus"},
        },
    ]
    listener = {
        "name": "admin",
        "address": _address("0.0.0.0", config.admin_port),
        "filter_chains": [{"filters": [_admin_http(routes, config)]}],
        "ignore_global_conn_limit": True,
    }
    if config.ipv6:
        listener["additional_addresses"] = [{"address": _address("::", config.admin_port)}]
    return listener


_SHUTDOWN = """\
function envoy_on_request(handle)
  local headers = handle:headers()
  if headers:get(":path") ~= "/shutdown" or headers:get(":method") ~= "POST" then
    return
  end
  local from = handle:streamInfo():downstreamDirectRemoteAddress()
  if not (from:find("^127%.") or from:find("^%[::1%]")) then
    handle:respond({[":status"] = "403"}, "only from within the pod\\n")
    return
  end
  local quit = {[":method"] = "POST", [":path"] = "/quitquitquit", [":authority"] = "localhost"}
  handle:httpCall("admin", quit, "", 1000, true)
  handle:respond({[":status"] = "200"}, "shutdown\\n")
end
"""
"""Answers before Envoy ends, which a route to ``/quitquitquit`` does not; and, as Linkerd's proxy,
only those who are in the pod."""


def _shutdown() -> Json:
    code = {"inline_string": _SHUTDOWN}
    return _named("envoy.filters.http.lua", "http.lua.v3.Lua", default_source_code=code)


def _admin_http(routes: list[Json], config: EnvoyConfig) -> Json:
    return _named(
        "envoy.filters.network.http_connection_manager",
        "network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="admin_listener",
        generate_request_id=False,
        http_filters=[*([_shutdown()] if config.shutdown_endpoint else []), _router()],
        route_config={
            "name": "admin",
            "virtual_hosts": [{"name": "admin", "domains": ["*"], "routes": routes}],
        },
    )


def _get(path: str) -> Json:
    method = {"name": ":method", "string_match": {"safe_regex": {"regex": "GET|HEAD"}}}
    return {"path": path, "headers": [method]}


# --- filters -----------------------------------------------------------------------------------


def _http_proxy(name: str, config: EnvoyConfig) -> Json:
    return _named(
        "envoy.filters.network.http_connection_manager",
        "network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=name,
        codec_type="AUTO",
        http_filters=[_router()],
        route_config=_pass_through(name),
        http_protocol_options=http1(accept_http_10=True, default_host_for_http_10="localhost"),
        http2_protocol_options=http2(),
        common_http_protocol_options={"idle_timeout": "0s", "max_headers_count": 1000},
        max_request_headers_kb=MOST_HEADER_KIB,
        stream_idle_timeout="0s",
        request_timeout="0s",
        upgrade_configs=[{"upgrade_type": "websocket"}, {"upgrade_type": "CONNECT"}],
        # Headers pass as they are.
        server_header_transformation="PASS_THROUGH",
        forward_client_cert_details="ALWAYS_FORWARD_ONLY",
        use_remote_address=False,
        skip_xff_append=True,
        generate_request_id=False,
        preserve_external_request_id=True,
        proxy_100_continue=True,
        **_tracing(config, name),
        **_access_log(config.access_log, http=True),
    )


def _router() -> Json:
    return _named("envoy.filters.http.router", "http.router.v3.Router", suppress_envoy_headers=True)


def _pass_through(name: str) -> Json:
    route = {"cluster": name, "timeout": "0s"}
    return {
        "name": name,
        "validate_clusters": True,
        "virtual_hosts": [
            {
                "name": name,
                "domains": ["*"],
                "routes": [
                    {"match": {"connect_matcher": {}}, "route": route},
                    {"match": {"prefix": "/"}, "route": route},
                ],
            }
        ],
    }


def _tcp_proxy(stat_prefix: str, cluster: str, config: EnvoyConfig) -> Json:
    return _named(
        "envoy.filters.network.tcp_proxy",
        "network.tcp_proxy.v3.TcpProxy",
        stat_prefix=stat_prefix,
        cluster=cluster,
        idle_timeout="0s",
        max_connect_attempts=1,
        **_access_log(config.access_log, http=False),
    )


_APACHE = (
    '%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% - - [%START_TIME(%d/%b/%Y:%H:%M:%S %z)%] "'
    '%REQ(:METHOD)% %REQ(:PATH)% %PROTOCOL%" %RESPONSE_CODE% %BYTES_SENT% '
    '"%REQ(REFERER)%" "%REQ(USER-AGENT)%"\n'
)
_JSON_TCP = {
    "timestamp": "%START_TIME%",
    "client.addr": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "server.addr": "%UPSTREAM_HOST%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "duration_ms": "%DURATION%",
    "flags": "%RESPONSE_FLAGS%",
}
_JSON_HTTP = {
    **_JSON_TCP,
    "host": "%REQ(:AUTHORITY)%",
    "method": "%REQ(:METHOD)%",
    "uri": "%REQ(:PATH)%",
    "version": "%PROTOCOL%",
    "status": "%RESPONSE_CODE%",
    "user_agent": "%REQ(USER-AGENT)%",
}


def _access_log(kind: str, *, http: bool) -> Json:
    """``access-log``: ``apache`` logs requests as httpd does, ``json`` connections too."""
    formats: dict[tuple[str, bool], Json] = {
        ("apache", True): {"text_format_source": {"inline_string": _APACHE}},
        ("json", True): {"json_format": _JSON_HTTP},
        ("json", False): {"json_format": _JSON_TCP},
    }
    if (kind, http) not in formats:
        return {}
    log = {
        "name": "envoy.access_loggers.stdout",
        "typed_config": {
            "@type": _TYPE + "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
            "log_format": formats[kind, http],
        },
    }
    return {"access_log": [log]}


def _tracing(config: EnvoyConfig, name: str) -> Json:
    """Spans for requests that are part of a trace, to an OpenTelemetry collector."""
    if config.trace_collector is None:
        return {}
    detector = _TYPE + (
        "envoy.extensions.tracers.opentelemetry.resource_detectors.v3."
        "EnvironmentResourceDetectorConfig"
    )
    provider = {
        "name": "envoy.tracers.opentelemetry",
        "typed_config": {
            "@type": _TYPE + "envoy.config.trace.v3.OpenTelemetryConfig",
            "grpc_service": {"envoy_grpc": {"cluster_name": "collector"}, "timeout": "1s"},
            "service_name": config.trace_service,
            "sampler": _sampler(config.trace_sampling),
            "resource_detectors": [
                {
                    "name": "envoy.tracers.opentelemetry.resource_detectors.environment",
                    "typed_config": {"@type": detector},
                }
            ],
        },
    }
    request_id = _TYPE + "envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig"
    return {
        # Requests without an x-request-id are traced too, and get none for it.
        "request_id_extension": {
            "typed_config": {
                "@type": request_id,
                "pack_trace_reason": False,
                "use_request_id_for_trace_sampling": False,
            }
        },
        "tracing": {
            "provider": provider,
            "random_sampling": {"value": 100.0},  # the sampler decides
            "spawn_upstream_span": False,
            "custom_tags": [{"tag": "direction", "literal": {"value": name}}],
        },
    }


def _sampler(percent: float) -> Json:
    """Who began the trace decides; of the requests that nobody traces, ``percent`` are."""
    samplers = _TYPE + "envoy.extensions.tracers.opentelemetry.samplers.v3."
    ratio = {
        "name": "envoy.tracers.opentelemetry.samplers.trace_id_ratio_based",
        "typed_config": {
            "@type": samplers + "TraceIdRatioBasedSamplerConfig",
            "sampling_percentage": {"numerator": round(percent * 10000), "denominator": "MILLION"},
        },
    }
    return {
        "name": "envoy.tracers.opentelemetry.samplers.parent_based",
        "typed_config": {
            "@type": samplers + "ParentBasedSamplerConfig",
            "wrapped_sampler": ratio,
        },
    }


# --- clusters ----------------------------------------------------------------------------------


def _collector_clusters(config: EnvoyConfig) -> list[Json]:
    if config.trace_collector is None:
        return []
    options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    return [
        {
            "name": "collector",
            "type": "STRICT_DNS",
            "connect_timeout": "1s",
            "load_assignment": _endpoint("collector", *config.trace_collector),
            "typed_extension_protocol_options": {
                options: {
                    "@type": _TYPE + options,
                    "explicit_http_config": {"http2_protocol_options": {}},
                }
            },
        }
    ]


def _endpoint(cluster: str, host: str, port: int) -> Json:
    return {
        "cluster_name": cluster,
        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(host, port)}}]}],
    }


def _admin_cluster(port: int) -> Json:
    return {
        "name": "admin",
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": _endpoint("admin", "127.0.0.1", port),
    }
