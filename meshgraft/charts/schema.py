"""The charts' values as types, and from these ``values.schema.json``: what Helm holds users to.

What meshed pods get is the injector's own `injector.core.values.Values`, so that a key which the
injector does not know cannot be set, and a key of a wrong type is refused before it is installed.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from injector.core.values import Group, Image, MeshgraftValues, Port, Resources, Values
from injector.profiles import PROFILES
from meshgraft.charts.location import ChartName
from process.logs import LogFormat, LogLevel
from vocabulary.defaults import ADMIN_PORT, CONTROL_PORT, INBOUND_PORT, OUTBOUND_PORT, PROXY_UID

Free = dict[str, Any]
"""A part of a Kubernetes object: the API server knows it better."""
Labels = dict[str, str]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Portion = int | Annotated[str, msgspec.Meta(pattern=r"^[0-9]+%$")]
"""A number, or a percentage."""
Folder = Annotated[str, msgspec.Meta(pattern=r"^/[^,:\s]+$")]
PortList = Annotated[
    str, msgspec.Meta(pattern=r"^\s*([0-9]+(-[0-9]+)?(\s*,\s*[0-9]+(-[0-9]+)?)*)?\s*$")
]
Duration = Annotated[str, msgspec.Meta(pattern=r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$")]
Seconds = Annotated[str, msgspec.Meta(pattern=r"^[0-9]+(\.[0-9]+)?s$")]
"""As Envoy takes it."""
Network = Annotated[str, msgspec.Meta(pattern=r"^[0-9A-Fa-f.:]+/[0-9]+$")]


class _Chart(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """Base: camelCase outside."""


class _RollingUpdate(_Chart, frozen=True):
    max_unavailable: Portion = 1
    max_surge: Portion = 0


class _Strategy(_Chart, frozen=True):
    rolling_update: _RollingUpdate = _RollingUpdate()


class _DisruptionBudget(_Chart, frozen=True):
    max_unavailable: Portion = 1


class _Controller(_Chart, frozen=True):
    pod_disruption_budget: _DisruptionBudget = _DisruptionBudget()


class _Expression(_Chart, frozen=True):
    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: list[str] = []


class _Selector(_Chart, frozen=True):
    match_labels: Labels = {}
    match_expressions: list[_Expression] = []


class _Condition(_Chart, frozen=True):
    name: str
    expression: str


class _ProxyInjector(_Chart, frozen=True):
    timeout_seconds: Annotated[int, msgspec.Meta(ge=1, le=30)] = 10
    shutdown_delay_seconds: Count = 5
    termination_grace_period_seconds: Count = 30
    namespace_selector: _Selector = _Selector()
    object_selector: _Selector = _Selector()
    match_conditions: list[_Condition] = []
    crt_pem: str = msgspec.field(default="", name="crtPEM")
    key_pem: str = msgspec.field(default="", name="keyPEM")
    ca_bundle: str = ""
    client_ca: str = msgspec.field(default="", name="clientCA")
    tls_min_version: Literal["1.2", "1.3"] = "1.3"
    external_secret: bool = False
    inject_ca_from: str = ""
    inject_ca_from_secret: str = ""


class _IssuerRef(_Chart, frozen=True):
    name: str = ""
    kind: str = "Issuer"
    group: str = "cert-manager.io"


class _CertManager(_Chart, frozen=True):
    issuer_ref: _IssuerRef = _IssuerRef()
    duration: Duration = "2160h"
    renew_before: Duration = "720h"


class _Certificates(_Chart, frozen=True):
    mode: Literal["self", "cert-manager", "provided"] = "self"
    cert_manager: _CertManager = _CertManager()


class _NetworkPolicy(_Chart, frozen=True):
    enabled: bool = True
    metrics_from: list[Free] = []
    egress: list[Free] = []


class _PodMonitor(_Chart, frozen=True):
    enabled: bool = False
    scrape_interval: Duration = "10s"
    labels: Labels = {}


class _ResourceQuota(_Chart, frozen=True):
    enabled: bool = False
    pods: Count = 5000


class _NodeProxy(_Chart, frozen=True):
    enabled: bool = False
    log_level: Literal["trace", "debug", "info", "warning", "error", "critical", "off"] = "warning"
    access_log: bool = False
    allow_from: list[Network] = []
    connect_timeout: Seconds = "1s"
    resources: Resources = Resources()
    tolerations: list[Free] = []
    priority_class_name: str = ""


class _Part(_Chart, frozen=True):
    replicas: Count = 1
    resources: Resources = Resources()


class _Identity(_Part, frozen=True):
    issuer: Literal["self", "provided"] = "self"
    issuer_secret: str = ""


class _Mesh(_Chart, frozen=True):
    cni_namespace: Annotated[str, msgspec.Meta(min_length=1)] = "linkerd-cni"
    control: _Part = _Part()
    identity: _Identity = _Identity()


class InjectorChart(Values, frozen=True, rename="camel", kw_only=True):
    """``deploy/charts/meshgraft``: the injector's settings, and what is the chart's alone."""

    controller_replicas: Count = 1
    webhook_failure_policy: Literal["Ignore", "Fail"] = "Ignore"
    controller_log_level: LogLevel = "info"
    controller_log_format: LogFormat = "json"
    controller_resources: Resources = Resources()
    enable_pod_anti_affinity: bool = False
    enable_pod_disruption_budget: bool = False
    controller: _Controller = _Controller()
    deployment_strategy: _Strategy = _Strategy()
    priority_class_name: str = ""
    node_selector: Labels = msgspec.field(default_factory=dict)
    tolerations: list[Free] = msgspec.field(default_factory=list)
    pod_labels: Labels = msgspec.field(default_factory=dict)
    pod_annotations: Labels = msgspec.field(default_factory=dict)
    common_labels: Labels = msgspec.field(default_factory=dict)
    revision_history_limit: Count = 10
    proxy_injector: _ProxyInjector = _ProxyInjector()
    certificates: _Certificates = _Certificates()
    network_policy: _NetworkPolicy = _NetworkPolicy()
    pod_monitor: _PodMonitor = _PodMonitor()
    resource_quota: _ResourceQuota = _ResourceQuota()
    create_namespace: bool = False
    managed_by: str = ""
    node_proxy: _NodeProxy = _NodeProxy()
    mesh: _Mesh = _Mesh()
    global_: Free = msgspec.field(default_factory=dict, name="global")
    """Helm hands it to a chart that is a part of another."""


class _Repair(_Chart, frozen=True):
    enabled: bool = True
    evict: bool = False


class _StartupTaint(_Chart, frozen=True):
    enabled: bool = False
    key: Annotated[str, msgspec.Meta(min_length=1)] = "meshgraft.io/cni-not-ready"


class _CniMesh(_Chart, frozen=True):
    enabled: bool = False
    namespace: Annotated[str, msgspec.Meta(min_length=1)] = "meshgraft"
    relay_metrics_port: Port = 9991
    relay_resources: Resources = Resources()


class CniChart(_Chart, frozen=True):
    """``deploy/charts/meshgraft-cni``."""

    inbound_proxy_port: Port = INBOUND_PORT
    outbound_proxy_port: Port = OUTBOUND_PORT
    proxy_control_port: Port = CONTROL_PORT
    proxy_admin_port: Port = ADMIN_PORT
    ignore_inbound_ports: PortList = ""
    ignore_outbound_ports: PortList = ""
    ports_to_redirect: PortList = ""
    skip_subnets: str = ""
    proxy_uid: Count = msgspec.field(default=PROXY_UID, name="proxyUID")
    proxy_gid: Group = msgspec.field(default=-1, name="proxyGID")
    disable_ipv6: bool = msgspec.field(default=True, name="disableIPv6")
    use_wait_flag: bool = False
    dest_cni_net_dir: Folder = msgspec.field(default="/etc/cni/net.d", name="destCNINetDir")
    dest_cni_bin_dir: Folder = msgspec.field(default="/opt/cni/bin", name="destCNIBinDir")
    netns_dir: Folder = "/run/netns"
    iptables_mode: Literal["auto", "nft", "legacy", "plain"] = "auto"
    cni_scope: Literal["active", "all"] = "active"
    cni_method: Literal["rewrite", "drop-in"] = "rewrite"
    default_network: str = ""
    exclude_namespaces: list[str] = []
    log_level: Literal["debug", "info", "warn"] = "info"
    agent_log_level: LogLevel = "info"
    agent_log_format: LogFormat = "json"
    repair: _Repair = _Repair()
    startup_taint: _StartupTaint = _StartupTaint()
    mesh: _CniMesh = _CniMesh()
    image: Image = Image()
    image_pull_secrets: list[Free] = []
    priority_class_name: str = ""
    tolerations: list[Free] = []
    node_selector: Labels = {}
    node_affinity: Free = {}
    update_strategy: _Strategy = _Strategy()
    revision_history_limit: Count = 10
    resources: Resources = Resources()
    privileged: bool = False
    se_linux_options: Labels = {}
    host_network: bool = True
    metrics_port: Port = 9990
    extra_init_containers: list[Free] = []
    pod_labels: Labels = {}
    pod_annotations: Labels = {}
    common_labels: Labels = {}
    network_policy: _NetworkPolicy = _NetworkPolicy()
    pod_monitor: _PodMonitor = _PodMonitor()
    resource_quota: _ResourceQuota = _ResourceQuota()
    create_namespace: bool = False
    managed_by: str = ""
    global_: Free = msgspec.field(default_factory=dict, name="global")


TYPES: dict[ChartName, type[msgspec.Struct]] = {
    "meshgraft": InjectorChart,
    "meshgraft-cni": CniChart,
}


def values_schema(chart: ChartName) -> dict[str, Any]:
    """The chart's ``values.schema.json``. Draft 7, which every Helm since 3.0 understands."""
    schema = msgspec.json.schema(TYPES[chart])
    definitions = {name: _strict(part) for name, part in sorted(schema["$defs"].items())}
    if ours := definitions.get(MeshgraftValues.__name__):
        ours["properties"]["profile"] = {"enum": sorted(PROFILES)}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$ref": schema["$ref"],
        "$defs": definitions,
    }


def _strict(part: Any) -> Any:
    """Without what only people read, and closed to keys that nobody knows."""
    if isinstance(part, list):
        return [_strict(item) for item in part]
    if not isinstance(part, dict):
        return part
    kept = {key: _strict(value) for key, value in part.items() if key not in _NOISE}
    if "properties" in part:
        kept["properties"] = {name: _strict(each) for name, each in part["properties"].items()}
        kept["additionalProperties"] = False
    return kept


_NOISE = frozenset(("title", "description", "default"))
