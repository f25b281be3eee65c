"""The containers and volumes of profile ``linkerd``, as Linkerd 2.20 injects them."""

from __future__ import annotations

from injector.core.model import BuildInput, Object
from injector.core.pods import first_container, service_account_mount
from injector.core.values import BadValues, Probe, Values, proxy_position
from injector.profiles._linkerd_env import (
    IDENTITY_DIR,
    PODINFO_DIR,
    TOKEN_DIR,
    TOKEN_NAME,
    proxy_env,
)
from injector.profiles.common import image, pull_policy, resources
from vocabulary.defaults import OUTBOUND_PORT

PROXY, INIT, VALIDATOR = "linkerd-proxy", "linkerd-init", "linkerd-network-validator"
DEBUG = "linkerd-debug"
_XTABLES_VOLUME = "linkerd-proxy-init-xtables-lock"
_IDENTITY_VOLUME = "linkerd-identity-end-entity"
_PODINFO_VOLUME = "linkerd-podinfo"
VOLUMES = frozenset((_XTABLES_VOLUME, _IDENTITY_VOLUME, _PODINFO_VOLUME, TOKEN_NAME))
_TOKEN_SECONDS = 86400
_LOCAL_PORT_OF_LINKERD = OUTBOUND_PORT
"""The validator's port in Linkerd, whatever the proxy's outbound port is."""
_FIREWALL = {
    "nft": ["iptables-nft", "iptables-nft-save"],
    "plain": ["iptables", "iptables-save"],
    "legacy": [],
}


def volumes(values: Values) -> tuple[Object, ...]:
    """Identity, its token where one is projected, and the init container's lock."""
    token: Object = {
        "name": TOKEN_NAME,
        "projected": {
            "sources": [
                {
                    "serviceAccountToken": {
                        "path": TOKEN_NAME,
                        "expirationSeconds": _TOKEN_SECONDS,
                        "audience": "identity.l5d.io",
                    }
                }
            ]
        },
    }
    lock: Object = {"name": _XTABLES_VOLUME, "emptyDir": {}}
    return (
        *(() if values.cni_enabled else (lock,)),
        {"name": _IDENTITY_VOLUME, "emptyDir": {"medium": "Memory"}},
        *((_podinfo(),) if values.proxy.tracing.enabled else ()),
        *((token,) if values.identity.service_account_token_projection else ()),
    )


def _podinfo() -> Object:
    """The pod's labels as a file, which the proxy makes attributes of its traces."""
    labels = {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}
    return {"name": _PODINFO_VOLUME, "downwardAPI": {"items": [labels]}}


def _with_resources(container: Object, values: Values) -> Object:
    amounts = resources(values)
    return {**container, "resources": amounts} if amounts else container


def proxy(given: BuildInput) -> Object:
    """The container ``linkerd-proxy``."""
    values, ports = given.values, given.values.proxy.ports
    container: Object = {
        "name": PROXY,
        "image": image(values.proxy.image, values),
        "imagePullPolicy": pull_policy(values.proxy.image, values),
        "env": proxy_env(given),
        "ports": [
            {"name": PROXY, "containerPort": ports.inbound},
            {"name": "linkerd-admin", "containerPort": ports.admin},
        ],
        "livenessProbe": _probe("/live", values, values.proxy.liveness_probe),
        "readinessProbe": _probe("/ready", values, values.proxy.readiness_probe),
        "securityContext": values.proxy.security_context or _security_context(given),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": _mounts(given),
    }
    return _with_resources({**container, **_life(values)}, values)


def _probe(path: str, values: Values, probe: Probe) -> Object:
    return {
        "httpGet": {"path": path, "port": values.proxy.ports.admin},
        "initialDelaySeconds": probe.initial_delay_seconds,
        "timeoutSeconds": probe.timeout_seconds,
    }


def _life(values: Values) -> Object:
    """How the proxy starts and stops relative to the application."""
    settings = values.proxy
    if proxy_position(values) == "native":
        life: Object = {"restartPolicy": "Always"}
        if settings.await_:
            life["startupProbe"] = {
                "httpGet": {"path": "/ready", "port": settings.ports.admin},
                "initialDelaySeconds": settings.startup_probe.initial_delay_seconds,
                "periodSeconds": settings.startup_probe.period_seconds,
                "failureThreshold": settings.startup_probe.failure_threshold,
            }
        return life
    hooks: Object = {}
    if settings.await_:
        command = ["/usr/lib/linkerd/linkerd-await", "--timeout=2m"]
        hooks["postStart"] = {"exec": {"command": [*command, f"--port={settings.ports.admin}"]}}
    if settings.wait_before_exit_seconds:
        seconds = str(settings.wait_before_exit_seconds)
        hooks["preStop"] = {"exec": {"command": ["/bin/sleep", seconds]}}
    return {"lifecycle": hooks} if hooks else {}


def _capabilities(pod: Object) -> Object:
    context = first_container(pod).get("securityContext") or {}
    capabilities: Object = context.get("capabilities") or {}
    return capabilities


def _security_context(given: BuildInput) -> Object:
    capabilities = _capabilities(given.pod)
    group = given.values.proxy.gid
    return {
        "allowPrivilegeEscalation": False,
        **({"capabilities": capabilities} if capabilities else {}),
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "runAsUser": given.values.proxy.uid,
        **({"runAsGroup": group} if group >= 0 else {}),
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _mounts(given: BuildInput) -> list[Object]:
    mounts: list[Object] = [{"name": _IDENTITY_VOLUME, "mountPath": IDENTITY_DIR}]
    if given.values.proxy.tracing.enabled:
        mounts.append({"name": _PODINFO_VOLUME, "mountPath": PODINFO_DIR})
    if given.values.identity.service_account_token_projection:
        mounts.append({"name": TOKEN_NAME, "mountPath": TOKEN_DIR})
    return mounts + _service_account_mounts(given.pod)


def _service_account_mounts(pod: Object) -> list[Object]:
    mount = service_account_mount(pod)
    return [mount] if mount else []


def init(given: BuildInput) -> Object:
    """The container ``linkerd-init``, which sets the pod's traffic rules.

    Its image is the settings' own, whatever the pod's annotations say of the proxy's: it has
    NET_ADMIN, and may be privileged.
    """
    values, picture = given.values, given.settings.proxy.image
    container = {
        "name": INIT,
        "image": image(picture, given.settings),
        "imagePullPolicy": pull_policy(picture, given.settings),
        "command": ["/usr/lib/linkerd/linkerd2-proxy-init"],
        "args": init_args(values),
        "securityContext": _init_security_context(given),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": _XTABLES_VOLUME, "mountPath": "/run"},
            *_service_account_mounts(given.pod),
        ],
    }
    return _with_resources(container, values)


def init_args(values: Values) -> list[str]:
    """The arguments of Linkerd's ``proxy-init``.

    Raises:
        BadValues: ``proxyInit.iptablesMode`` is not one that is known.
    """
    proxy, settings = values.proxy, values.proxy_init
    own = f"{proxy.ports.control},{proxy.ports.admin}"
    inbound = settings.ignore_inbound_ports
    optional = (
        ("--outbound-ports-to-ignore", settings.ignore_outbound_ports),
        ("--timeout-close-wait-secs", str(settings.close_wait_timeout_secs or "")),
        ("--log-format", settings.log_format),
        ("--log-level", settings.log_level),
        ("--subnets-to-ignore", settings.skip_subnets),
    )
    return [
        *_firewall_args(settings.iptables_mode),
        *(["--ipv6=false"] if values.disable_ipv6 else []),
        *("--incoming-proxy-port", str(proxy.ports.inbound)),
        *("--outgoing-proxy-port", str(proxy.ports.outbound)),
        *("--proxy-uid", str(proxy.uid)),
        *(("--proxy-gid", str(proxy.gid)) if proxy.gid >= 0 else ()),
        *("--inbound-ports-to-ignore", f"{own},{inbound}" if inbound else own),
        *(part for flag, value in optional if value for part in (flag, value)),
    ]


def _firewall_args(mode: str) -> list[str]:
    try:
        binaries = _FIREWALL[mode or "legacy"]
    except KeyError:
        known = ", ".join(sorted(_FIREWALL))
        raise BadValues(
            f"values: proxyInit.iptablesMode: {mode!r}: expected one of {known}"
        ) from None
    flags = ("--firewall-bin-path", "--firewall-save-bin-path")
    return [part for pair in zip(flags, binaries, strict=False) for part in pair]


def _init_security_context(given: BuildInput) -> Object:
    settings, capabilities = given.values.proxy_init, _capabilities(given.pod)
    privileged = settings.privileged or bool(settings.close_wait_timeout_secs)
    needed = ["NET_ADMIN", "NET_RAW"]
    added = [name for name in capabilities.get("add") or () if name not in needed]
    dropped = [name for name in capabilities.get("drop") or () if name not in needed]
    return {
        "allowPrivilegeEscalation": privileged,
        "capabilities": {"add": needed + added, **({"drop": dropped} if dropped else {})},
        "privileged": privileged,
        "readOnlyRootFilesystem": True,
        "runAsGroup": 0 if settings.run_as_root else settings.run_as_group,
        "runAsNonRoot": not settings.run_as_root,
        "runAsUser": 0 if settings.run_as_root else settings.run_as_user,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def validator(given: BuildInput) -> Object:
    """The container ``linkerd-network-validator``: it holds the pod back until rules are there.

    Beside our own CNI plugin it listens where the proxy will; Linkerd's listens on 4140 always,
    so that a pod with another ``outbound-port`` never starts.
    """
    values, settings = given.values, given.values.network_validator
    ipv6 = not values.disable_ipv6
    port = _LOCAL_PORT_OF_LINKERD if given.origin.by_command else values.proxy.ports.outbound
    connect = settings.connect_addr or ("[fd00::1]:20001" if ipv6 else "1.1.1.1:20001")
    listen = settings.listen_addr or (f"[::]:{port}" if ipv6 else f"0.0.0.0:{port}")
    container = {
        "name": VALIDATOR,
        "image": image(values.proxy.image, values),
        "imagePullPolicy": pull_policy(values.proxy.image, values),
        "command": ["/usr/lib/linkerd/linkerd2-network-validator"],
        "args": [
            *("--log-format", settings.log_format),
            *("--log-level", settings.log_level),
            *("--connect-addr", connect),
            *("--listen-addr", listen),
            *("--timeout", settings.timeout),
        ],
        "securityContext": settings.security_context,
    }
    return _with_resources(container, values)


def debug(values: Values) -> Object:
    """The container ``linkerd-debug``, with tools to look at the pod's traffic."""
    nothing = {"exec": {"command": ["true"]}}
    return {
        "name": DEBUG,
        "image": image(values.debug_container.image, values),
        "imagePullPolicy": pull_policy(values.debug_container.image, values),
        "livenessProbe": nothing,
        "readinessProbe": nothing,
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
