"""Profile ``envoy``: a transparent Envoy that stands alone, all its configuration in its args."""

from __future__ import annotations

import json
import re

from injector.annotations import (
    REDIRECT_ANNOTATION,
    BadItems,
    PortRange,
    Redirect,
    parse_duration,
    parse_port_list,
)
from injector.model import Additions, BuildInput, Object
from injector.profiles.bootstrap import EnvoyConfig, bootstrap
from injector.profiles.common import (
    CONTROL_PLANE_NS_LABEL,
    convenience_annotations,
    cores,
    image,
    owner_labels,
    proxy_position,
    pull_policy,
    resources,
)
from injector.redirect import redirect_for
from injector.values import Probe, Values

PROXY = "envoy-proxy"
INIT = "meshgraft-init"
VALIDATOR = "meshgraft-network-validator"


class EnvoyProfile:
    """Envoy as a sidecar: no ConfigMap, no control plane, no volume."""

    name = "envoy"

    def build(self, given: BuildInput) -> Additions:
        """The proxy, and what sets or checks the pod's traffic rules before anything starts."""
        values = given.values
        redirect, warnings = redirect_for(values)
        annotations = {"meshgraft.io/profile": self.name, **convenience_annotations(given, ())}
        if values.cni_enabled:
            annotations[REDIRECT_ANNOTATION] = redirect.to_annotation()
        return Additions(
            proxy=_proxy(given),
            position=proxy_position(values),
            init_containers=(
                _validator(values) if values.cni_enabled else _init(values, redirect),
            ),
            annotations=annotations,
            labels=_labels(given),
            warnings=warnings,
        )


def _labels(given: BuildInput) -> dict[str, str]:
    """Linkerd's labels but for the control plane's: with that one, a Linkerd in the same cluster
    would take this pod for one of its own and speak its mTLS to it."""
    labels = owner_labels(given)
    labels.pop(CONTROL_PLANE_NS_LABEL, None)
    return labels


# --- the proxy ---------------------------------------------------------------------------------


def _proxy(given: BuildInput) -> Object:
    values = given.values
    proxy, picture = values.proxy, values.meshgraft.envoy.image
    container: Object = {
        "name": PROXY,
        "image": image(picture, values),
        "imagePullPolicy": pull_policy(picture, values),
        "command": ["/usr/local/bin/envoy"],
        "args": _args(given),
        "env": [
            {"name": "POD_NAME", "valueFrom": _field("metadata.name")},
            {"name": "POD_NAMESPACE", "valueFrom": _field("metadata.namespace")},
        ],
        "ports": [
            {"name": PROXY, "containerPort": proxy.ports.inbound, "protocol": "TCP"},
            {"name": "envoy-admin", "containerPort": proxy.ports.admin, "protocol": "TCP"},
        ],
        "livenessProbe": _probe("/live", proxy.ports.admin, proxy.liveness_probe),
        "readinessProbe": _probe("/ready", proxy.ports.admin, proxy.readiness_probe),
        "lifecycle": _lifecycle(given),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "runAsUser": proxy.uid,
            **({"runAsGroup": proxy.gid} if proxy.gid >= 0 else {}),
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        **_resources(values),
    }
    if proxy.native_sidecar:
        container["restartPolicy"] = "Always"
        if proxy.await_:
            container["startupProbe"] = _startup_probe(proxy.ports.admin, proxy.startup_probe)
    return container


def _args(given: BuildInput) -> list[str]:
    values = given.values
    args = [
        "--config-yaml",
        # Kubernetes expands $(NAME) in args; a bootstrap means what it says.
        _compact(bootstrap(_envoy_config(given))).replace("$(", "$$("),
        "--service-cluster",
        f"{given.owner.name or '$(POD_NAME)'}.$(POD_NAMESPACE)",
        "--service-node",
        "$(POD_NAME).$(POD_NAMESPACE)",
        "--concurrency",
        str(cores(values)),
        "--log-level",
        _log_level(values.proxy.log_level),
        "--drain-time-s",
        str(_drain_seconds(given)),
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
        inbound_connect_timeout=_seconds(proxy.inbound_connect_timeout),
        outbound_connect_timeout=_seconds(proxy.outbound_connect_timeout),
        inbound_detect_timeout=0 if proxy.disable_inbound_protocol_detect_timeout else 10,
        outbound_detect_timeout=0 if proxy.disable_outbound_protocol_detect_timeout else 10,
        ipv6=not given.values.disable_ipv6,
        access_log=proxy.access_log,
        shutdown_endpoint=proxy.enable_shutdown_endpoint,
    )


def _ranges(text: str) -> tuple[PortRange, ...]:
    """The good items; the core has replaced names by ports, and warned about what is neither."""
    try:
        return parse_port_list(text)
    except BadItems as error:
        good: tuple[PortRange, ...] = error.good
        return good


def _seconds(text: str) -> float:
    return parse_duration(text).nanoseconds / 1e9


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
    for directive in re.split(r"\s*,\s*", text.strip().lower()):
        if directive in _LEVELS:
            return _LEVELS[directive]
    return "warning"


# --- life and death ----------------------------------------------------------------------------


def _lifecycle(given: BuildInput) -> Object:
    proxy = given.values.proxy
    hooks: Object = {"preStop": _bash(_drain_script(given))}
    if proxy.await_ and not proxy.native_sidecar:
        hooks["postStart"] = _bash(_AWAIT.format(port=proxy.ports.admin))
    return hooks


def _bash(script: str) -> Object:
    return {"exec": {"command": ["/bin/bash", "-c", script]}}


# The image has bash and no HTTP client; bash can speak enough HTTP by itself.
_AWAIT = """\
for _ in {{1..1200}}; do
  if exec 3<>/dev/tcp/127.0.0.1/{port}; then
    printf 'GET /ready HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n' >&3
    read -r _ status _ <&3
    exec 3>&-
    [ "$status" = 200 ] && exit 0
  fi 2>/dev/null
  sleep 0.1
done
exit 1
"""
_DRAIN = """\
exec 3<>/dev/tcp/127.0.0.1/{port}
printf 'POST /drain_listeners?graceful&skip_exit&inboundonly HTTP/1.1\\r\\n' >&3
printf 'Host: localhost\\r\\nContent-Length: 0\\r\\nConnection: close\\r\\n\\r\\n' >&3
cat <&3
exec sleep {seconds}
"""


def _drain_script(given: BuildInput) -> str:
    """Asks Envoy to finish inbound connections politely, and stays until it has, while what the
    application still sends passes; then the kubelet ends Envoy."""
    wait = 0 if given.values.proxy.native_sidecar else given.values.proxy.wait_before_exit_seconds
    return _DRAIN.format(
        port=given.values.proxy.ports.control, seconds=max(wait, _drain_seconds(given))
    )


def _drain_seconds(given: BuildInput) -> int:
    """The drain time, at most half of the pod's grace period: the application needs the rest."""
    grace = given.pod.get("spec", {}).get("terminationGracePeriodSeconds")
    wanted = given.values.meshgraft.envoy.drain_seconds
    if given.values.proxy.shutdown_grace_period:
        wanted = parse_duration(given.values.proxy.shutdown_grace_period).seconds
    return min(wanted, (30 if grace is None else grace) // 2)


def _probe(path: str, port: int, probe: Probe) -> Object:
    return {
        "httpGet": {"path": path, "port": port},
        "initialDelaySeconds": probe.initial_delay_seconds,
        "timeoutSeconds": probe.timeout_seconds,
    }


def _startup_probe(port: int, probe: Probe) -> Object:
    return {
        "httpGet": {"path": "/ready", "port": port},
        "initialDelaySeconds": probe.initial_delay_seconds,
        "periodSeconds": probe.period_seconds,
        "failureThreshold": probe.failure_threshold,
    }


# --- before the proxy --------------------------------------------------------------------------


def _init(values: Values, redirect: Redirect) -> Object:
    """Sets the rules from inside the pod, where no CNI plugin does it from the node."""
    init = values.proxy_init
    legacy = init.iptables_mode == "legacy"
    return {
        "name": INIT,
        **_own_image(values),
        "command": ["meshgraft", "proxy-init"],
        "args": ["--iptables-mode", init.iptables_mode, "--redirect", redirect.to_annotation()],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            # Root, because Kubernetes gives a user without a file capability none at all; libiptc
            # (legacy) opens raw sockets.
            "capabilities": {
                "drop": ["ALL"],
                "add": ["NET_ADMIN", "NET_RAW"] if legacy else ["NET_ADMIN"],
            },
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": False,
            "runAsUser": 0,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        **_resources(values),
    }


def _validator(values: Values) -> Object:
    """Waits until the rules that the CNI plugin set are seen to work, and fails if they are not."""
    validator = values.network_validator
    ipv6 = not values.disable_ipv6
    port = values.proxy.ports.outbound
    return {
        "name": VALIDATOR,
        **_own_image(values),
        "command": ["meshgraft", "network-validator"],
        "args": [
            "--connect-addr",
            validator.connect_addr or ("[fd00::1]:20001" if ipv6 else "1.1.1.1:20001"),
            "--listen-addr",
            validator.listen_addr or (f"[::]:{port}" if ipv6 else f"0.0.0.0:{port}"),
            "--timeout",
            validator.timeout,
        ],
        "securityContext": validator.security_context,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        **_resources(values),
    }


def _own_image(values: Values) -> Object:
    picture = values.meshgraft.image
    return {"image": image(picture, values), "imagePullPolicy": pull_policy(picture, values)}


def _resources(values: Values) -> Object:
    amounts = resources(values)
    return {"resources": amounts} if amounts else {}


def _field(path: str) -> Object:
    return {"fieldRef": {"fieldPath": path}}


def _compact(tree: Object) -> str:
    return json.dumps(tree, separators=(",", ":"))
