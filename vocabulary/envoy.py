"""What Envoy is told about every upstream, whoever describes it: the bootstrap and control agree.

What Envoy does of its own accord elsewhere is switched off: an application is not to notice it.
"""

from __future__ import annotations

from typing import Any

from vocabulary.mesh import KEY_SECRET, ROOTS_SECRET

Json = dict[str, Any]

TYPE = "type.googleapis.com/"
UNLIMITED = 4294967295
"""The largest value of a threshold: Envoy's defaults of 1024 would be a limit nobody asked for."""
KEEPALIVE = {"keepalive_time": 10, "keepalive_interval": 10}
"""Seconds. An application's own keep-alive ends at its proxy: the proxies must find dead peers."""
MOST_STREAMS = 200
"""At once on one HTTP/2 connection; clients wait or open another one. Most servers allow 100 to
250, Linkerd's proxy 200. With the longest headers, 64 KiB, this is what one connection may hold in
headers, 12.5 MiB: compressed they are a few KiB, too fast for the overload manager to step in."""
_POOL_IDLE = "3s"
# As Linkerd's proxy. An upstream connection that is kept is one that the server may be closing
# at this moment; servers' own limits are 5 s and more.
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def thresholds() -> Json:
    """No limits on what goes on at a time."""
    return {
        "thresholds": [
            {
                "priority": "DEFAULT",
                "max_connections": UNLIMITED,
                "max_pending_requests": UNLIMITED,
                "max_requests": UNLIMITED,
            }
        ]
    }


def http_protocol_options() -> Json:
    """For a Cluster's ``typed_extension_protocol_options``: HTTP goes on as it came."""
    return {
        _HTTP_OPTIONS: {
            "@type": TYPE + _HTTP_OPTIONS,
            "common_http_protocol_options": {
                "idle_timeout": _POOL_IDLE,
                "max_headers_count": 10000,
            },
            "use_downstream_protocol_config": {
                "http_protocol_options": http1(),
                "http2_protocol_options": http2(),
            },
        }
    }


def http1(**fields: Any) -> Json:
    """Options of HTTP/1: names of headers keep their case."""
    formatter = "envoy.extensions.http.header_formatters.preserve_case.v3"
    preserve_case = {
        "name": "preserve_case",
        "typed_config": {"@type": f"{TYPE}{formatter}.PreserveCaseFormatterConfig"},
    }
    return {
        "enable_trailers": True,
        "header_key_format": {"stateful_formatter": preserve_case},
        **fields,
    }


def http2() -> Json:
    """Options of HTTP/2."""
    return {
        "allow_connect": True,
        "allow_metadata": False,
        "max_concurrent_streams": MOST_STREAMS,
        "initial_stream_window_size": 1 << 20,
        "initial_connection_window_size": 8 << 20,
    }


def original_dst(name: str, connect_timeout: str) -> Json:
    """A Cluster that goes on to where the connection was going."""
    return {
        "name": name,
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "connect_timeout": connect_timeout,
        "circuit_breakers": thresholds(),
        "upstream_connection_options": {"tcp_keepalive": KEEPALIVE},
        "typed_extension_protocol_options": http_protocol_options(),
    }


ADS: Json = {"ads": {}, "resource_api_version": "V3"}
"""Where resources come from: by the one stream that there is for all."""


def mesh_tls() -> Json:
    """A ``CommonTlsContext`` of the mesh: the pod's certificate and the roots, by SDS.

    The same to the letter in listeners and clusters: where the sources differ in anything, Envoy
    takes them for two subscriptions, asks for the secret once, and the second waits for ever.
    """
    # No time-out: without a certificate there is nothing to be ready for.
    source = {**ADS, "initial_fetch_timeout": "0s"}
    return {
        "tls_certificate_sds_secret_configs": [{"name": KEY_SECRET, "sds_config": source}],
        "validation_context_sds_secret_config": {"name": ROOTS_SECRET, "sds_config": source},
        # The maximum too, or a peer could ask for TLS 1.2, which shows certificates to the wire.
        "tls_params": {
            "tls_minimum_protocol_version": "TLSv1_3",
            "tls_maximum_protocol_version": "TLSv1_3",
        },
    }
