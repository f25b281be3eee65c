"""Profile ``envoy``: a transparent Envoy that stands alone, all its configuration in its args."""

from __future__ import annotations

import json
from collections.abc import Iterator

from injector.core.kept import Kept
from injector.core.marks import CONTROL_PLANE_NS_LABEL, PROFILE, Marks
from injector.core.model import Additions, BuildInput, Object
from injector.core.pods import annotations_of
from injector.core.redirect import redirect_for
from injector.core.values import BadValues, Probe, Proxy, Values, proxy_position
from injector.profiles._envoy_hooks import drain_seconds, lifecycle
from injector.profiles._envoy_init import INIT, VALIDATOR, init, validator
from injector.profiles._linkerd_containers import DEBUG, debug
from injector.profiles.bootstrap import EnvoyConfig, bootstrap
from injector.profiles.bootstrap_mesh import MeshConfig, parse_networks
from injector.profiles.common import (
    convenience_annotations,
    cores,
    duration,
    owner_labels,
    pull_secrets,
    resources_field,
    trace_attributes,
    trust_domain,
)
from vocabulary.annotations import (
    PREFIX,
    REDIRECT_ANNOTATION,
    BadItems,
    PortRange,
    parse_port_list,
    parse_quantity,
)
from vocabulary.annotations.redirect import Redirect
from vocabulary.mesh import ENABLED, MESH_ANNOTATION, is_trust_domain

__all__ = ["INIT", "PROXY", "VALIDATOR", "EnvoyProfile"]

PROXY = "envoy-proxy"

_IGNORED = (
    "enable-external-profiles",
    "enable-gateway",
    "pod-inbound-ports",
    "proxy-cpu-ratio-limit",
    "proxy-inbound-discovery-cache-unused-timeout",
    "proxy-log-http-headers",
    "proxy-metrics-hostname-labels",
    "proxy-outbound-discovery-cache-unused-timeout",
)
OF_THE_MESH = (
    "config.linkerd.io/default-inbound-policy",
    "config.linkerd.io/proxy-require-identity-inbound-ports",
)
"""Without it nobody proves who they are, and the network is nobody's to judge."""


class EnvoyProfile:
    """Envoy as a sidecar: no ConfigMap, no control plane, no volume."""

    name = "envoy"
    ignores = frozenset(PREFIX + key for key in _IGNORED)
    marks = Marks(
        profile=name,
        proxies=frozenset((PROXY,)),
        inits=frozenset((INIT,)),
        validators=frozenset((VALIDATOR,)),
        conveniences=frozenset((DEBUG,)),
        images=("meshgraft", "meshgraft.envoy", "debugContainer"),
    )

    def build(self, given: BuildInput) -> Additions:
        """The proxy, and what sets or checks the pod's traffic rules before anything starts.

        Raises:
            BadValues: the settings are not usable (a time-out that is none).
        """
        values = given.values
        redirect, warnings = redirect_for(values, given.pod)
        annotations = {PROFILE: self.name, **convenience_annotations(given, ())}
        if values.cni_enabled:
            annotations[REDIRECT_ANNOTATION] = redirect.to_annotation()
        if values.meshgraft.mesh.enabled:
            annotations[MESH_ANNOTATION] = ENABLED
        return Additions(
            proxy=_proxy(given),
            position=proxy_position(values),
            init_containers=_before(values, redirect),
            containers=(debug(values),) if values.enable_debug_sidecar else (),
            annotations=annotations,
            labels=_labels(given),
            image_pull_secrets=pull_secrets(given),
            warnings=(*warnings, *_warnings(given)),
        )


def _before(values: Values, redirect: Redirect) -> tuple[Object, ...]:
    """What has to end well before anything else starts. In the mesh nothing has to: a proxy gets
    its configuration through a socket that is opened once the pod's rules are set."""
    if not values.cni_enabled:
        return (init(values, redirect),)
    return () if values.meshgraft.mesh.enabled else (validator(values, redirect),)


def _warnings(given: BuildInput) -> Iterator[str]:
    if given.values.proxy.is_ingress:
        yield _NO_INGRESS
    if not given.values.meshgraft.mesh.enabled:
        present = annotations_of(given.pod).keys() | given.namespace.annotations.keys()
        for key in present & set(OF_THE_MESH):
            yield f"without a meaning for profile envoy outside the mesh (meshgraft.mesh): {key}"


_NO_INGRESS = (
    'linkerd.io/inject: "ingress" is "enabled" with profile envoy: it always goes to where the '
    "connection was going"
)


def _labels(given: BuildInput) -> dict[str, str]:
    """Linkerd's labels except for the control plane's: with that one, a Linkerd in the same cluster
    would take this pod for one of its own and speak its mTLS to it."""
    labels = owner_labels(given)
    labels.pop(CONTROL_PLANE_NS_LABEL, None)
    return labels


# --- the proxy ---------------------------------------------------------------------------------


def _proxy(given: BuildInput) -> Object:
    values, proxy = given.values, given.values.proxy
    container: Object = {
        "name": PROXY,
        **_picture(given),
        "command": ["/usr/local/bin/envoy"],
        "args": _args(given),
        "env": _env(given),
        "ports": [
            {"name": PROXY, "containerPort": proxy.ports.inbound, "protocol": "TCP"},
            {"name": "envoy-admin", "containerPort": proxy.ports.admin, "protocol": "TCP"},
        ],
        "livenessProbe": _probe("/live", proxy.ports.admin, proxy.liveness_probe),
        "readinessProbe": _readiness_probe(proxy),
        "lifecycle": lifecycle(given),
        "securityContext": proxy.security_context or _rights(values),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        **resources_field(values),
    }
    if proxy.native_sidecar:
        container["restartPolicy"] = "Always"
        if proxy.await_:
            container["startupProbe"] = _startup_probe(proxy.ports.admin, proxy.startup_probe)
    return container


def _picture(given: BuildInput) -> Object:
    """Envoy's image. ``proxy.image`` in the settings is Linkerd's proxy, but an annotation that
    names another image means the proxy that this pod gets."""
    ours, base = given.values.meshgraft.envoy.image, given.settings.proxy.image
    asked = given.values.proxy.image
    name = asked.name if asked.name != base.name else ours.name
    version = asked.version if asked.version != base.version else ours.version
    policy = asked.pull_policy if asked.pull_policy != base.pull_policy else ours.pull_policy
    return {
        "image": f"{name}:{version}" if version else name,
        "imagePullPolicy": policy or given.values.image_pull_policy,
    }


_ENCODED = {ord(each): f"%{ord(each):02X}" for each in "%,="}


def _env(given: BuildInput) -> list[Object]:
    env: list[Object] = [
        {"name": "POD_NAME", "valueFrom": _field("metadata.name")},
        {"name": "POD_NAMESPACE", "valueFrom": _field("metadata.namespace")},
    ]
    if given.values.proxy.tracing.enabled:
        attributes = {
            "k8s.pod.name": "$(POD_NAME)",
            "k8s.namespace.name": "$(POD_NAMESPACE)",
            **trace_attributes(given.pod),
        }
        # As the specification of OTEL_RESOURCE_ATTRIBUTES has it. Envoy does not start on a comma
        # or equals sign in a value, nor on an empty one.
        text = ",".join(
            f"{name}={value.translate(_ENCODED)}" for name, value in attributes.items() if value
        )
        env.append({"name": "OTEL_RESOURCE_ATTRIBUTES", "value": text})
    return env + given.values.proxy.additional_env


def _rights(values: Values) -> Object:
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "runAsUser": values.proxy.uid,
        **({"runAsGroup": values.proxy.gid} if values.proxy.gid >= 0 else {}),
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _args(given: BuildInput) -> list[str]:
    values = given.values
    args = [
        "--config-yaml",
        _bootstrap_arg(_envoy_config(given)),
        "--service-cluster",
        f"{given.owner.name or '$(POD_NAME)'}.$(POD_NAMESPACE)",
        "--service-node",
        "$(POD_NAME).$(POD_NAMESPACE)",
        "--concurrency",
        str(cores(values)),
        "--log-level",
        _log_level(values.proxy.log_level),
        "--drain-time-s",
        str(drain_seconds(given)),
        "--drain-strategy",
        "immediate",
        # Shared memory for hot restart would need a writable /dev/shm, and is never used here.
        "--disable-hot-restart",
    ]
    if values.proxy.log_format == "json":
        args += [
            "--log-format",
            '{"time":"%Y-%m-%dT%T.%F","level":"%l","logger":"%n","message":"%j"}',
        ]
    return args


_BOOTSTRAPS: Kept[EnvoyConfig] = Kept(most_characters=4 * 1024 * 1024)
"""The pods of a cluster share a handful of bootstraps of some 12 KiB each."""


def _bootstrap_arg(config: EnvoyConfig) -> str:
    return _BOOTSTRAPS.get(
        config, lambda: _literal(json.dumps(bootstrap(config), separators=(",", ":")))
    )


def _literal(text: str) -> str:
    """An arg that means what it says: Kubernetes expands ``$(NAME)`` there, and halves ``$$``."""
    return text.replace("$", "$$")


_MOST_BYTES = (1 << 63) - 1


def _memory_limit(text: str) -> int:
    """In bytes; what no machine has is as much as Envoy can count."""
    return min(parse_quantity(text).whole, _MOST_BYTES) if text else 0


def _envoy_config(given: BuildInput) -> EnvoyConfig:
    proxy = given.values.proxy
    opaque = _ranges(proxy.opaque_ports)
    return EnvoyConfig(
        inbound_port=proxy.ports.inbound,
        outbound_port=proxy.ports.outbound,
        admin_port=proxy.ports.admin,
        control_port=proxy.ports.control,
        inbound_opaque_ports=opaque,
        # Without a control plane a client cannot know which ports a server calls opaque: it
        # takes the cluster's list as well as its own.
        outbound_opaque_ports=tuple(
            dict.fromkeys((*opaque, *_ranges(given.settings.proxy.opaque_ports)))
        ),
        inbound_connect_timeout=_seconds("inboundConnectTimeout", proxy.inbound_connect_timeout),
        outbound_connect_timeout=_seconds("outboundConnectTimeout", proxy.outbound_connect_timeout),
        inbound_detect_timeout=0 if proxy.disable_inbound_protocol_detect_timeout else 10,
        outbound_detect_timeout=0 if proxy.disable_outbound_protocol_detect_timeout else 10,
        ipv6=not given.values.disable_ipv6,
        memory_limit=_memory_limit(proxy.resources.memory.limit),
        access_log=proxy.access_log,
        shutdown_endpoint=proxy.enable_shutdown_endpoint,
        trace_collector=_collector(given.values),
        trace_service=given.owner.name or PROXY,
        trace_sampling=given.values.meshgraft.envoy.trace_sampling,
        mesh=_mesh_config(given.values) if given.values.meshgraft.mesh.enabled else None,
    )


def _mesh_config(values: Values) -> MeshConfig:
    if not values.cni_enabled:
        raise BadValues(
            "values: meshgraft.mesh.enabled: expected cniEnabled: true beside it, for a proxy's"
            " identity comes by the node's agent"
        )
    domain = trust_domain(values)
    if not is_trust_domain(domain):
        raise BadValues(f"values: identityTrustDomain: {domain!r}: expected a DNS name")
    try:
        return MeshConfig(
            trust_domain=domain,
            networks=parse_networks(values.cluster_networks),
            policy=values.proxy.default_inbound_policy,
            identity_ports=_ranges(values.proxy.require_identity_on_inbound_ports),
        )
    except ValueError as error:
        raise BadValues(f"values: clusterNetworks: {error}") from error


def _collector(values: Values) -> tuple[str, int] | None:
    tracing = values.proxy.tracing
    if not tracing.enabled:
        return None
    host, _, port = tracing.collector.endpoint.rpartition(":")
    if not (host and port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise BadValues(
            f"values: proxy.tracing.collector.endpoint: {tracing.collector.endpoint!r}: "
            "expected HOST:PORT, because proxy.tracing.enabled is true"
        )
    return host.strip("[]"), int(port)


def _ranges(text: str) -> tuple[PortRange, ...]:
    """The good items; the core has replaced names by ports, and warned about what is neither."""
    try:
        return parse_port_list(text)
    except BadItems as error:
        good: tuple[PortRange, ...] = error.good
        return good


def _seconds(name: str, text: str) -> float:
    """A time-out above 0, as Envoy takes it. Annotations were checked: the values file was not."""
    length = duration(name, text)
    if not length.nanoseconds:
        raise BadValues(f"values: proxy.{name}: {text!r}: expected a duration above 0")
    return length.nanoseconds / 1e9


_LEVELS = {
    "trace": "trace",
    "debug": "debug",
    "info": "info",
    "warn": "warning",
    "warning": "warning",
    "error": "error",
    "off": "off",
}


def _log_level(text: str) -> str:
    """Envoy's level for a log filter of Linkerd's proxy, such as ``warn,linkerd=info``: the
    first directive that names no module counts; the rest is about code that Envoy has not."""
    for directive in text.lower().split(","):
        if level := _LEVELS.get(directive.strip()):
            return level
    return "warning"


def _probe(path: str, port: int, probe: Probe) -> Object:
    return {
        "httpGet": {"path": path, "port": port},
        "initialDelaySeconds": probe.initial_delay_seconds,
        "timeoutSeconds": probe.timeout_seconds,
    }


def _readiness_probe(proxy: Proxy) -> Object:
    """As patient as by the kubelet's defaults (30 s), but asked five times as often: a pod whose
    proxy was not up yet at the first time would be ready 10 s later than it could be. Where the
    startup probe comes before, there is nothing left to delay."""
    probe = _probe("/ready", proxy.ports.admin, proxy.readiness_probe)
    if proxy.native_sidecar and proxy.await_:
        del probe["initialDelaySeconds"]
    return {**probe, "periodSeconds": 2, "failureThreshold": 15}


def _startup_probe(port: int, probe: Probe) -> Object:
    return {
        "httpGet": {"path": "/ready", "port": port},
        "initialDelaySeconds": probe.initial_delay_seconds,
        "periodSeconds": probe.period_seconds,
        "failureThreshold": probe.failure_threshold,
    }


def _field(path: str) -> Object:
    return {"fieldRef": {"fieldPath": path}}
