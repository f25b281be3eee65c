"""`Values`: the settings, in the shape of Linkerd's ``linkerd-config`` (its key ``values``).

Linkerd's own file is valid input as it is: keys that mean nothing here are left out, ``null``
stands for "the default", and what is ours lives under ``meshgraft``. Everything is frozen; an
annotation makes a changed copy (`injector.core.resolve`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from vocabulary.defaults import ADMIN_PORT, CONTROL_PORT, INBOUND_PORT, OUTBOUND_PORT, PROXY_UID
from vocabulary.errors import MeshgraftError
from vocabulary.version import __version__

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
User = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
"""Never root: the proxy's container says ``runAsNonRoot``, and the kubelet would not start it."""
Group = Annotated[int, msgspec.Meta(ge=-1, le=2**31 - 1)]
"""-1 for none."""
PullPolicy = Literal["Always", "IfNotPresent", "Never", ""]
"""Another word, and the API server would refuse every pod that gets the image. Empty: the one for
all images."""


class _Values(msgspec.Struct, frozen=True, rename="camel"):
    """Base: camelCase outside, immutable, unknown keys ignored."""


class Image(_Values, frozen=True):
    """Linkerd's proxy's; those of others are kinds of their own, so that settings which name
    only a version leave the name as it is."""

    name: str = "cr.l5d.io/linkerd/proxy"
    version: str = ""
    pull_policy: PullPolicy = ""


class DebugImage(Image, frozen=True):
    name: str = "cr.l5d.io/linkerd/debug"


class EnvoyImage(Image, frozen=True):
    name: str = "envoyproxy/envoy"
    version: str = "v1.40.0"


class MeshgraftImage(Image, frozen=True):
    name: str = "meshgraft/meshgraft"
    version: str = __version__


class Ports(_Values, frozen=True):
    admin: Port = ADMIN_PORT
    control: Port = CONTROL_PORT
    inbound: Port = INBOUND_PORT
    outbound: Port = OUTBOUND_PORT


class Resource(_Values, frozen=True):
    request: str = ""
    limit: str = ""


class Resources(_Values, frozen=True):
    cpu: Resource = Resource()
    memory: Resource = Resource()
    ephemeral_storage: Resource = msgspec.field(default=Resource(), name="ephemeral-storage")


class Probe(_Values, frozen=True):
    initial_delay_seconds: Count = 0
    timeout_seconds: Count = 1
    period_seconds: Count = 1
    failure_threshold: Count = 120


class LivenessProbe(Probe, frozen=True):
    initial_delay_seconds: Count = 10


class ReadinessProbe(Probe, frozen=True):
    initial_delay_seconds: Count = 2


class Streams(_Values, frozen=True):
    initial_timeout: str = "3s"
    idle_timeout: str = "5m"
    lifetime: str = "1h"


class Control(_Values, frozen=True):
    streams: Streams = Streams()


class Workers(_Values, frozen=True):
    minimum: Count = 1
    maximum_cpu_ratio: float | None = msgspec.field(default=None, name="maximumCPURatio")


class Runtime(_Values, frozen=True):
    workers: Workers = Workers()


class ProxyMetrics(_Values, frozen=True):
    hostname_labels: bool = False


_HTTP2_KEEPALIVE = {"server": {"http2": {"keepAliveInterval": "10s", "keepAliveTimeout": "3s"}}}


class MeshIdentity(_Values, frozen=True):
    service_account_name: str = ""
    namespace: str = ""


class Collector(_Values, frozen=True):
    endpoint: str = ""
    mesh_identity: MeshIdentity = MeshIdentity()


_TRACE_LABELS = {
    "k8s.container.name": "$(_pod_containerName)",
    "k8s.pod.ip": "$(_pod_ip)",
    "k8s.pod.uid": "$(_pod_uid)",
}


class Tracing(_Values, frozen=True):
    enabled: bool = False
    collector: Collector = Collector()
    labels: dict[str, str] = msgspec.field(default_factory=lambda: _TRACE_LABELS)
    trace_service_name: str = "linkerd-proxy"


class Proxy(_Values, frozen=True):
    """``proxy``: durations are kept as the text that was written; they are parsed where used."""

    image: Image = Image()
    log_level: str = "warn,linkerd=info,hickory=error"
    log_format: str = "plain"
    log_http_headers: str = msgspec.field(default="off", name="logHTTPHeaders")
    ports: Ports = Ports()
    uid: User = PROXY_UID
    gid: Group = -1
    cores: Count | None = None
    runtime: Runtime = Runtime()
    resources: Resources = Resources()
    await_: bool = msgspec.field(default=True, name="await")
    native_sidecar: bool = True
    wait_before_exit_seconds: Count = 0
    shutdown_grace_period: str = ""
    enable_shutdown_endpoint: bool = False
    enable_external_profiles: bool = False
    default_inbound_policy: str = "all-unauthenticated"
    opaque_ports: str = "25,587,3306,4444,5432,6379,9300,11211"
    require_identity_on_inbound_ports: str = ""
    require_tls_on_inbound_ports: str = msgspec.field(default="", name="requireTLSOnInboundPorts")
    inbound_connect_timeout: str = "100ms"
    outbound_connect_timeout: str = "1000ms"
    inbound_discovery_cache_unused_timeout: str = "90s"
    outbound_discovery_cache_unused_timeout: str = "5s"
    disable_inbound_protocol_detect_timeout: bool = False
    disable_outbound_protocol_detect_timeout: bool = False
    access_log: str = ""
    is_gateway: bool = False
    is_ingress: bool = False
    pod_inbound_ports: str = ""
    metrics: ProxyMetrics = ProxyMetrics()
    tracing: Tracing = Tracing()
    control: Control = Control()
    inbound: dict[str, Any] = msgspec.field(default_factory=lambda: _HTTP2_KEEPALIVE)
    outbound: dict[str, Any] = msgspec.field(default_factory=lambda: _HTTP2_KEEPALIVE)
    additional_env: list[dict[str, Any]] = []
    experimental_env: list[dict[str, Any]] = []
    security_context: dict[str, Any] = {}
    liveness_probe: LivenessProbe = LivenessProbe()
    readiness_probe: ReadinessProbe = ReadinessProbe()
    startup_probe: Probe = Probe()


class ProxyInit(_Values, frozen=True):
    ignore_inbound_ports: str = "4567,4568"
    ignore_outbound_ports: str = "4567,4568"
    iptables_mode: str = "nft"
    log_level: str = ""
    log_format: str = ""
    skip_subnets: str = ""
    close_wait_timeout_secs: Count = 0
    privileged: bool = False
    run_as_root: bool = False
    run_as_user: int = 65534
    run_as_group: int = 65534


_VALIDATOR_SECURITY_CONTEXT: dict[str, Any] = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsGroup": 65534,
    "runAsNonRoot": True,
    "runAsUser": 65534,
    "seccompProfile": {"type": "RuntimeDefault"},
}


class NetworkValidator(_Values, frozen=True):
    connect_addr: str = ""
    listen_addr: str = ""
    log_level: str = "debug"
    log_format: str = "plain"
    timeout: str = "10s"
    security_context: dict[str, Any] = msgspec.field(
        default_factory=lambda: _VALIDATOR_SECURITY_CONTEXT
    )


class DebugContainer(_Values, frozen=True):
    image: DebugImage = DebugImage()


class Identity(_Values, frozen=True):
    service_account_token_projection: bool = True


class EnvoyValues(_Values, frozen=True):
    """``meshgraft.envoy``: the proxy of profile ``envoy``."""

    image: EnvoyImage = EnvoyImage()
    trace_sampling: Annotated[float, msgspec.Meta(ge=0, le=100)] = 0.0
    """Percent of the requests that begin a trace where the client began none; 0 takes part in
    traces that others began, as Linkerd's proxy does."""
    drain_seconds: Count = 15
    """How long listeners drain after a pod is told to stop, in seconds."""


class NodeValues(_Values, frozen=True):
    """``meshgraft.node``: the ports of the proxy on each node, for profile ``node``."""

    http_port: Port = 4140
    http2_port: Port = 4240
    grpc_port: Port = 4340


class MeshValues(_Values, frozen=True):
    """``meshgraft.mesh``: what the proxies of profile ``envoy`` do beyond passing traffic on."""

    enabled: bool = False
    """Whether they prove who they are to each other, and find their destinations: with the node's
    agent and relay, and so with ``cniEnabled`` alone."""


class MeshgraftValues(_Values, frozen=True):
    """``meshgraft``: what Linkerd's values have no place for."""

    profile: str = "envoy"
    """One that is registered (`injector.profiles.PROFILES`), which `get_profile` looks up."""
    image: MeshgraftImage = MeshgraftImage()
    envoy: EnvoyValues = EnvoyValues()
    node: NodeValues = NodeValues()
    mesh: MeshValues = MeshValues()
    skip_outbound_subnets: str = ""
    opt_in: Literal["annotation", "label"] = "annotation"
    """``label``: a label ``linkerd.io/inject`` asks for the proxy too, so that the webhook's
    selectors can leave everybody else alone."""


class Values(_Values, frozen=True):
    """All settings; the defaults are Linkerd's."""

    linkerd_version: str = ""
    cluster_domain: str = "cluster.local"
    cluster_networks: str = "10.0.0.0/8,100.64.0.0/10,172.16.0.0/12,192.168.0.0/16,fd00::/8"
    identity_trust_domain: str = ""
    identity_trust_anchors_pem: str = msgspec.field(default="", name="identityTrustAnchorsPEM")
    linkerd_namespace: str = "linkerd"
    image_pull_policy: PullPolicy = "IfNotPresent"
    image_pull_secrets: list[dict[str, Any]] = []
    cni_enabled: bool = False
    disable_ipv6: bool = msgspec.field(default=True, name="disableIPv6")
    identity: Identity = Identity()
    proxy: Proxy = Proxy()
    proxy_init: ProxyInit = ProxyInit()
    network_validator: NetworkValidator = NetworkValidator()
    debug_container: DebugContainer = DebugContainer()
    enable_debug_sidecar: bool = False
    meshgraft: MeshgraftValues = MeshgraftValues()


class BadValues(MeshgraftError, ValueError):
    """The settings are not usable; the text names the key and what is expected there."""


def _without_nulls(tree: Any) -> Any:
    """Helm's meaning of null: the key was never there."""
    if isinstance(tree, dict):
        return {key: _without_nulls(value) for key, value in tree.items() if value is not None}
    return tree


def decode_values(tree: Any) -> Values:
    """Settings from the parsed content of a values file.

    Raises:
        BadValues: not a mapping, or a key of the wrong type (named by its path).
    """
    if tree is None:
        return Values()
    if not isinstance(tree, dict):
        raise BadValues(f"the values must be a mapping, not {type(tree).__name__}")
    try:
        # Lax: Helm users write ports and booleans as strings, and Helm lets them.
        return msgspec.convert(_without_nulls(tree), Values, strict=False)
    except msgspec.ValidationError as error:
        raise BadValues(f"values: {error}") from error
    except RecursionError as error:
        raise BadValues("values: nested too deeply; an alias may hold itself") from error


def proxy_position(values: Values) -> Literal["native", "first", "last"]:
    """Native sidecar; else first, where the application waits for the proxy; else last."""
    if values.proxy.native_sidecar:
        return "native"
    return "first" if values.proxy.await_ else "last"
