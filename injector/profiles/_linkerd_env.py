"""The environment of Linkerd's proxy: its whole configuration, in Linkerd's order."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from injector.core.model import BuildInput, Object
from injector.core.ports import inbound_ports
from injector.core.values import Values
from injector.profiles.common import trace_attributes, trust_domain

IDENTITY_DIR = "/var/run/linkerd/identity/end-entity"
PODINFO_DIR = "/var/run/linkerd/podinfo"
TOKEN_DIR = "/var/run/secrets/tokens"  # noqa: S105
TOKEN_NAME = "linkerd-identity-token"  # noqa: S105
_DEFAULT_TOKEN_FILE = "/var/run/secrets/kubernetes.io/serviceaccount/token"  # noqa: S105

_PREFIX = "LINKERD2_PROXY_"
_HEADERS_OFF = ",[{headers}]=off,[{request}]=off"
_NEVER = "365d"
"""What the proxy takes for a time-out that never comes."""

_Variables = Iterator[tuple[str, str | None]]
"""Names without their prefix; None leaves the variable out."""


def proxy_env(given: BuildInput) -> list[Object]:
    """The variables of the container ``linkerd-proxy``."""
    values = given.values
    env = [
        _field("_pod_name", "metadata.name"),
        _field("_pod_ns", "metadata.namespace"),
        _field("_pod_uid", "metadata.uid"),
        _field("_pod_ip", "status.podIP"),
        _field("_pod_nodeName", "spec.nodeName"),
        _value("_pod_containerName", "linkerd-proxy"),
    ]
    env += _prefixed(_runtime(values))
    env += _prefixed(_control_plane(values))
    env += _prefixed(_timeouts(values))
    env += _prefixed(_listeners(values))
    env.append(_field(_PREFIX + "INBOUND_IPS", "status.podIPs"))
    env += _prefixed(_traffic(given))
    env.append(_field("_pod_sa", "spec.serviceAccountName"))
    env.append(_value("_l5d_ns", values.linkerd_namespace))
    env.append(_value("_l5d_trustdomain", trust_domain(values)))
    env += _prefixed(_identity(values))
    env += _prefixed(_last(values))
    return [*env, *values.proxy.additional_env, *values.proxy.experimental_env]


def _value(name: str, value: str) -> Object:
    return {"name": name, "value": value}


def _field(name: str, path: str) -> Object:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def _prefixed(variables: _Variables) -> list[Object]:
    return [
        {"name": _PREFIX + name, "value": value} for name, value in variables if value is not None
    ]


def _flag(value: bool) -> str:
    return "true" if value else "false"


def _runtime(values: Values) -> _Variables:
    proxy, workers = values.proxy, values.proxy.runtime.workers
    ratio = workers.maximum_cpu_ratio
    yield "CORES", str(workers.minimum)
    yield "CORES_MIN", str(workers.minimum)
    yield "CORES_MAX", str(proxy.cores) if proxy.cores else None
    yield "CORES_MAX_RATIO", f"{ratio!r}" if ratio else None
    yield "INBOUND_PORTS_REQUIRE_IDENTITY", proxy.require_identity_on_inbound_ports or None
    yield "INBOUND_PORTS_REQUIRE_TLS", proxy.require_tls_on_inbound_ports or None
    yield "SHUTDOWN_ENDPOINT_ENABLED", _flag(proxy.enable_shutdown_endpoint)
    shows_headers = proxy.log_http_headers == "insecure"
    yield "LOG", proxy.log_level + ("" if shows_headers else _HEADERS_OFF)
    yield "LOG_FORMAT", proxy.log_format


def _control_plane(values: Values) -> _Variables:
    here = f"{values.linkerd_namespace}.svc.{values.cluster_domain}."
    streams = values.proxy.control.streams
    yield "DESTINATION_SVC_ADDR", f"linkerd-dst-headless.{here}:8086"
    yield "DESTINATION_PROFILE_NETWORKS", values.cluster_networks
    yield "POLICY_SVC_ADDR", f"linkerd-policy.{here}:8090"
    yield "POLICY_WORKLOAD", '{"ns":"$(_pod_ns)", "pod":"$(_pod_name)"}\n'
    yield "INBOUND_DEFAULT_POLICY", values.proxy.default_inbound_policy
    yield "POLICY_CLUSTER_NETWORKS", values.cluster_networks
    yield "CONTROL_STREAM_INITIAL_TIMEOUT", streams.initial_timeout
    yield "CONTROL_STREAM_IDLE_TIMEOUT", streams.idle_timeout
    yield "CONTROL_STREAM_LIFETIME", streams.lifetime


def _timeouts(values: Values) -> _Variables:
    proxy = values.proxy
    yield "INBOUND_CONNECT_TIMEOUT", proxy.inbound_connect_timeout
    yield "OUTBOUND_CONNECT_TIMEOUT", proxy.outbound_connect_timeout
    yield "OUTBOUND_DISCOVERY_IDLE_TIMEOUT", proxy.outbound_discovery_cache_unused_timeout
    yield "INBOUND_DISCOVERY_IDLE_TIMEOUT", proxy.inbound_discovery_cache_unused_timeout
    outbound, inbound = (
        proxy.disable_outbound_protocol_detect_timeout,
        proxy.disable_inbound_protocol_detect_timeout,
    )
    yield "OUTBOUND_DETECT_TIMEOUT", _NEVER if outbound else None
    yield "INBOUND_DETECT_TIMEOUT", _NEVER if inbound else None


def _listeners(values: Values) -> _Variables:
    ports, ipv6 = values.proxy.ports, not values.disable_ipv6
    every = "[::]" if ipv6 else "0.0.0.0"
    outbound = f"127.0.0.1:{ports.outbound}"
    yield "CONTROL_LISTEN_ADDR", f"{every}:{ports.control}"
    yield "ADMIN_LISTEN_ADDR", f"{every}:{ports.admin}"
    yield "OUTBOUND_LISTEN_ADDR", outbound
    yield "OUTBOUND_LISTEN_ADDRS", f"{outbound},[::1]:{ports.outbound}" if ipv6 else outbound
    yield "INBOUND_LISTEN_ADDR", f"{every}:{ports.inbound}"


def _traffic(given: BuildInput) -> _Variables:
    values, proxy = given.values, given.values.proxy
    suffix = f"svc.{values.cluster_domain}."
    yield "INBOUND_PORTS", proxy.pod_inbound_ports or inbound_ports(given.pod)
    yield "INBOUND_GATEWAY_SUFFIXES", suffix if proxy.is_gateway else None
    yield "INGRESS_MODE", "true" if proxy.is_ingress else None
    yield "DESTINATION_PROFILE_SUFFIXES", "." if proxy.enable_external_profiles else suffix
    yield "INBOUND_ACCEPT_KEEPALIVE", "10000ms"
    yield "OUTBOUND_CONNECT_KEEPALIVE", "10000ms"
    yield "INBOUND_ACCEPT_USER_TIMEOUT", "30s"
    yield "OUTBOUND_CONNECT_USER_TIMEOUT", "30s"
    yield "OUTBOUND_METRICS_HOSTNAME_LABELS", _flag(proxy.metrics.hostname_labels)
    yield from _tracing(given)
    yield from _parameters("INBOUND", proxy.inbound)
    yield from _parameters("OUTBOUND", proxy.outbound)
    yield "INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION", proxy.opaque_ports or None
    context = '{"ns":"$(_pod_ns)", "nodeName":"$(_pod_nodeName)", "pod":"$(_pod_name)"}\n'
    yield "DESTINATION_CONTEXT", context


def _tracing(given: BuildInput) -> _Variables:
    tracing = given.values.proxy.tracing
    if not tracing.enabled:
        return
    peer = tracing.collector.mesh_identity
    account = f"{peer.service_account_name}.{peer.namespace}"
    known = peer.service_account_name and peer.namespace
    attributes = {**tracing.labels, **trace_attributes(given.pod)}
    yield "TRACE_ATTRIBUTES_PATH", f"{PODINFO_DIR}/labels"
    yield "TRACE_ANNOTATIONS_PATH", f"{PODINFO_DIR}/annotations"
    yield "TRACE_PROTOCOL", "opentelemetry"
    yield "TRACE_SERVICE_NAME", tracing.trace_service_name
    yield "TRACE_COLLECTOR_SVC_ADDR", tracing.collector.endpoint
    yield "TRACE_COLLECTOR_SVC_NAME", f"{account}.{_accounts(given.values)}" if known else None
    yield "TRACE_EXTRA_ATTRIBUTES", "".join(f"{k}={attributes[k]}\n" for k in sorted(attributes))


_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def _parameters(name: str, tree: Mapping[str, Any]) -> _Variables:
    """``<scope>.<protocol>.<parameter>`` in snake case: SERVER_HTTP2_KEEP_ALIVE_INTERVAL."""
    for key in sorted(tree):
        path, value = f"{name}_{_HUMP.sub('_', key).upper()}", tree[key]
        if isinstance(value, Mapping):
            yield from _parameters(path, value)
        else:
            yield path, _flag(value) if isinstance(value, bool) else str(value)


def _accounts(values: Values) -> str:
    """What the name of a service account in the mesh ends in."""
    return f"serviceaccount.identity.{values.linkerd_namespace}.{trust_domain(values)}"


def _identity(values: Values) -> _Variables:
    namespace, accounts = values.linkerd_namespace, _accounts(values)
    address = f"linkerd-identity-headless.{namespace}.svc.{values.cluster_domain}.:8080"
    projected = values.identity.service_account_token_projection
    destination = f"linkerd-destination.{namespace}.{accounts}"
    yield "IDENTITY_DIR", IDENTITY_DIR
    yield "IDENTITY_TRUST_ANCHORS", values.identity_trust_anchors_pem.strip() + "\n"
    yield "IDENTITY_TOKEN_FILE", f"{TOKEN_DIR}/{TOKEN_NAME}" if projected else _DEFAULT_TOKEN_FILE
    yield "IDENTITY_SVC_ADDR", address
    yield "IDENTITY_LOCAL_NAME", f"$(_pod_sa).$(_pod_ns).{accounts}"
    yield "IDENTITY_SVC_NAME", f"linkerd-identity.{namespace}.{accounts}"
    yield "DESTINATION_SVC_NAME", destination
    yield "POLICY_SVC_NAME", destination


def _last(values: Values) -> _Variables:
    yield "ACCESS_LOG", values.proxy.access_log or None
    yield "SHUTDOWN_GRACE_PERIOD", values.proxy.shutdown_grace_period or None
