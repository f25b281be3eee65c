"""The table of all annotations: key, type, parser, bounds, default, what it sets, its effect.

The parser of a key, the warnings, the inheritance from namespaces and the documentation all
come from here; nothing else in the project knows what an annotation is called or may hold.
The facts are Linkerd's (2.20); what is ours says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from vocabulary.annotations.env import LONGEST as LONGEST_ENV
from vocabulary.annotations.env import parse_env
from vocabulary.annotations.parse import (
    MAX_PORT,
    int_between,
    one_of,
    parse_bool,
    parse_cidr_text,
    parse_connect_timeout,
    parse_fraction,
    parse_host_port,
    parse_image,
    parse_milliseconds,
    parse_opaque_port_text,
    parse_port_text,
    parse_proxy_duration,
    parse_resource,
    parse_tag,
    parse_text,
    parse_whole_seconds,
    whole_cores,
)
from vocabulary.defaults import ADMIN_PORT, CONTROL_PORT, INBOUND_PORT, OUTBOUND_PORT, PROXY_UID

INJECT = "linkerd.io/inject"
PREFIX = "config.linkerd.io/"
BETA_PREFIX = "config.beta.linkerd.io/"
ALPHA_PREFIX = "config.alpha.linkerd.io/"
OPAQUE_PORTS = "config.linkerd.io/opaque-ports"
NATIVE_SIDECAR = "config.linkerd.io/proxy-enable-native-sidecar"
CLOSE_WAIT_TIMEOUT = "config.linkerd.io/close-wait-timeout"
_MAX_ID = 2**31 - 1
"""What Kubernetes takes for runAsUser and runAsGroup."""

_LISTS = frozenset(("port list", "CIDR list"))
_LONGEST_LIST = 256 * 1024
"""All that the API server takes; of how many items is read, the parser knows."""

Parser = Callable[[str], Any]


class Annotation(msgspec.Struct, frozen=True, kw_only=True):
    """One row: an annotation as users write it."""

    key: str
    type: str
    """The type in a word or two, for people."""
    parse: Parser
    """Text to the value that ``sets`` takes; raises `BadValue`. None as value sets nothing."""
    effect: str
    """What it does, in one sentence."""
    default: str = ""
    """The default as one would write it; empty for none."""
    bounds: str = ""
    """The allowed values where the type does not say it already."""
    sets: str | None = None
    """Path in the values file, such as ``proxy.ports.inbound``; None: read by the core itself."""
    derives: tuple[str, Parser] | None = None
    """A second path that follows from the same text, and how."""
    merges: bool = False
    """Whether the layers add up, item by item by name, instead of replacing each other."""
    inherited: bool = True
    """Whether a pod that lacks the key gets it from its namespace."""
    longest: int = 256
    """Characters that are read at most: a parser never sees more."""
    secret: bool = False
    """Whether the text may hold secrets, so that no message repeats it."""
    hidden_by: tuple[str, ...] = ()
    """Keys that, where present on either, make this one void."""


def _row(
    key: str, kind: str, parse: Parser, sets: str | None, default: str, effect: str, **rest: Any
) -> Annotation:
    if kind in _LISTS:
        rest = {"longest": _LONGEST_LIST, **rest}
    return Annotation(
        key=key, type=kind, parse=parse, sets=sets, default=default, effect=effect, **rest
    )


def _port(key: str, default: int, effect: str) -> Annotation:
    name = key.removeprefix(PREFIX).removesuffix("-port")
    bounds, path = f"1 to {MAX_PORT}", f"proxy.ports.{name}"
    return _row(key, "port", int_between(1, MAX_PORT), path, str(default), effect, bounds=bounds)


def _amount(key: str, sets: str, effect: str, **rest: Any) -> Annotation:
    return _row(
        key,
        "quantity",
        parse_resource,
        "proxy.resources." + sets,
        "",
        effect,
        bounds="0 or more",
        **rest,
    )


def _switch(
    key: str, sets: str, default: Literal["true", "false"], effect: str, **rest: Any
) -> Annotation:
    return _row(key, "boolean", parse_bool, sets, default, effect, **rest)


def _choice(
    key: str,
    choices: Mapping[str, Any],
    sets: str,
    default: str,
    effect: str,
) -> Annotation:
    bounds = ", ".join(choice for choice in choices if choice)
    return _row(key, "enumeration", one_of(choices), sets, default, effect, bounds=bounds)


def _same(*choices: str) -> dict[str, str]:
    return {choice: choice for choice in choices}


_ENABLED = {"enabled": True, "disabled": False}
_PULL_POLICIES = _same("Always", "IfNotPresent", "Never")
_POLICIES = _same(
    "all-unauthenticated",
    "all-authenticated",
    "cluster-unauthenticated",
    "cluster-authenticated",
    "deny",
    "audit",
)
# None: only "ingress" sets something; the others decide whether there is a proxy at all.
_INJECT = {"enabled": None, "disabled": None, "ingress": True, "": None}

_INJECTION = (
    _choice(
        INJECT,
        _INJECT,
        "proxy.isIngress",
        "",
        "Whether the pod gets a proxy; `ingress` also makes the proxy take each request's"
        " destination from its headers.",
    ),
)

_IMAGES = (
    _row(
        "config.linkerd.io/proxy-image",
        "image name",
        parse_image,
        "proxy.image.name",
        "cr.l5d.io/linkerd/proxy",
        "The image of the proxy, of the init container and of the network validator.",
    ),
    _row(
        "config.linkerd.io/proxy-version",
        "image tag",
        parse_tag,
        "proxy.image.version",
        "the installed version",
        "The tag of that image.",
    ),
    _choice(
        "config.linkerd.io/image-pull-policy",
        _PULL_POLICIES,
        "proxy.image.pullPolicy",
        "IfNotPresent",
        "When that image is pulled.",
    ),
    _row(
        "config.linkerd.io/debug-image",
        "image name",
        parse_image,
        "debugContainer.image.name",
        "cr.l5d.io/linkerd/debug",
        "The image of the debug container.",
    ),
    _row(
        "config.linkerd.io/debug-image-version",
        "image tag",
        parse_tag,
        "debugContainer.image.version",
        "the installed version",
        "The tag of the debug container's image.",
    ),
    _choice(
        "config.linkerd.io/debug-image-pull-policy",
        _PULL_POLICIES,
        "debugContainer.image.pullPolicy",
        "IfNotPresent",
        "When the debug container's image is pulled.",
    ),
    _switch(
        "config.linkerd.io/enable-debug-sidecar",
        "enableDebugSidecar",
        "false",
        "Adds a container with tools for debugging to the pod.",
    ),
)

_PORTS = (
    _port("config.linkerd.io/control-port", CONTROL_PORT, "The port of the proxy's control API."),
    _port(
        "config.linkerd.io/admin-port", ADMIN_PORT, "The port of the proxy's metrics and probes."
    ),
    _port(
        "config.linkerd.io/inbound-port",
        INBOUND_PORT,
        "The port to which the pod's inbound traffic is redirected.",
    ),
    _port(
        "config.linkerd.io/outbound-port",
        OUTBOUND_PORT,
        "The port to which the pod's outbound traffic is redirected.",
    ),
    _row(
        "config.linkerd.io/skip-inbound-ports",
        "port list",
        parse_port_text,
        "proxyInit.ignoreInboundPorts",
        "4567,4568",
        "Inbound ports that bypass the proxy.",
    ),
    _row(
        "config.linkerd.io/skip-outbound-ports",
        "port list",
        parse_port_text,
        "proxyInit.ignoreOutboundPorts",
        "4567,4568",
        "Outbound ports that bypass the proxy.",
    ),
    _row(
        "config.linkerd.io/skip-subnets",
        "CIDR list",
        parse_cidr_text,
        "proxyInit.skipSubnets",
        "",
        "Subnets whose inbound connections bypass the proxy.",
    ),
    _row(
        "config.linkerd.io/skip-outbound-subnets",
        "CIDR list",
        parse_cidr_text,
        "meshgraft.skipOutboundSubnets",
        "",
        "Subnets to which connections bypass the proxy (Meshgraft's own; takes the CNI plugin or"
        " profile envoy).",
    ),
    _row(
        "config.linkerd.io/opaque-ports",
        "port list",
        parse_opaque_port_text,
        "proxy.opaquePorts",
        "25,587,3306,4444,5432,6379,9300,11211",
        "Ports on which the proxy does not try to detect the protocol; names of container ports"
        " are allowed.",
    ),
    _row(
        "config.linkerd.io/pod-inbound-ports",
        "port list",
        parse_port_text,
        "proxy.podInboundPorts",
        "the ports of the pod's containers and probes",
        "The ports on which the pod serves.",
    ),
    _row(
        "config.linkerd.io/proxy-require-identity-inbound-ports",
        "port list",
        parse_port_text,
        "proxy.requireIdentityOnInboundPorts",
        "",
        "Inbound ports that take only connections with a mesh identity.",
    ),
)

_RESOURCES = (
    _amount(
        "config.linkerd.io/proxy-cpu-request",
        "cpu.request",
        "The CPU that the proxy asks for; rounded up, also its least number of worker threads.",
        derives=("proxy.runtime.workers.minimum", whole_cores),
    ),
    _amount(
        "config.linkerd.io/proxy-cpu-limit",
        "cpu.limit",
        "The most CPU that the proxy gets; rounded up, also its largest number of worker threads.",
        derives=("proxy.cores", whole_cores),
    ),
    _row(
        "config.linkerd.io/proxy-cpu-ratio-limit",
        "fraction",
        parse_fraction,
        "proxy.runtime.workers.maximumCPURatio",
        "",
        "The largest share of the node's CPUs for which the proxy starts worker threads.",
        bounds="above 0 and below 1",
    ),
    _amount(
        "config.linkerd.io/proxy-memory-request",
        "memory.request",
        "The memory that the proxy asks for.",
    ),
    _amount(
        "config.linkerd.io/proxy-memory-limit",
        "memory.limit",
        "The most memory that the proxy gets.",
    ),
    _amount(
        "config.linkerd.io/proxy-ephemeral-storage-request",
        "ephemeral-storage.request",
        "The ephemeral storage that the proxy asks for.",
    ),
    _amount(
        "config.linkerd.io/proxy-ephemeral-storage-limit",
        "ephemeral-storage.limit",
        "The most ephemeral storage that the proxy gets.",
    ),
    _row(
        "config.linkerd.io/proxy-uid",
        "user ID",
        int_between(1, _MAX_ID),
        "proxy.uid",
        str(PROXY_UID),
        "The user that the proxy runs as, by which its own traffic is told apart.",
        bounds=f"1 to {_MAX_ID}",
    ),
    _row(
        "config.linkerd.io/proxy-gid",
        "group ID",
        int_between(-1, _MAX_ID),
        "proxy.gid",
        "-1",
        "The group that the proxy runs as.",
        bounds=f"0 to {_MAX_ID}, or -1 for none",
    ),
)

_OBSERVING = (
    _row(
        "config.linkerd.io/proxy-log-level",
        "log filter",
        parse_text,
        "proxy.logLevel",
        "warn,linkerd=info,hickory=error",
        "What the proxy logs.",
        longest=1024,
    ),
    _choice(
        "config.linkerd.io/proxy-log-http-headers",
        _same("insecure", "off", ""),
        "proxy.logHTTPHeaders",
        "off",
        "Whether HTTP headers, which may hold secrets, may appear in the proxy's log.",
    ),
    _choice(
        "config.linkerd.io/proxy-log-format",
        _same("plain", "json"),
        "proxy.logFormat",
        "plain",
        "The format of the proxy's log.",
    ),
    _choice(
        "config.linkerd.io/access-log",
        _same("apache", "json", ""),
        "proxy.accessLog",
        "",
        "Makes the proxy write an access log, in this format.",
    ),
    _switch(
        "config.linkerd.io/proxy-metrics-hostname-labels",
        "proxy.metrics.hostnameLabels",
        "false",
        "Adds host names to the labels of outbound metrics.",
    ),
    _choice(
        "config.linkerd.io/proxy-admin-shutdown",
        _ENABLED,
        "proxy.enableShutdownEndpoint",
        "disabled",
        "Lets a POST to the admin port's /shutdown stop the proxy.",
    ),
)

_TRAFFIC = (
    _switch(
        "config.linkerd.io/enable-external-profiles",
        "proxy.enableExternalProfiles",
        "false",
        "Looks up service profiles for names outside the cluster too.",
    ),
    _switch(
        "config.linkerd.io/enable-gateway",
        "proxy.isGateway",
        "false",
        "Makes the proxy a multicluster gateway.",
    ),
    _row(
        "config.linkerd.io/proxy-outbound-connect-timeout",
        "duration",
        parse_connect_timeout,
        "proxy.outboundConnectTimeout",
        "1000ms",
        "How long the proxy waits for a connection out of the pod.",
    ),
    _row(
        "config.linkerd.io/proxy-inbound-connect-timeout",
        "duration",
        parse_connect_timeout,
        "proxy.inboundConnectTimeout",
        "100ms",
        "How long the proxy waits for a connection to the application.",
    ),
    _row(
        "config.linkerd.io/proxy-outbound-discovery-cache-unused-timeout",
        "duration",
        parse_proxy_duration,
        "proxy.outboundDiscoveryCacheUnusedTimeout",
        "5s",
        "How long what was learnt about an outbound destination is kept without use.",
    ),
    _row(
        "config.linkerd.io/proxy-inbound-discovery-cache-unused-timeout",
        "duration",
        parse_proxy_duration,
        "proxy.inboundDiscoveryCacheUnusedTimeout",
        "90s",
        "How long what was learnt about an inbound port is kept without use.",
    ),
    _switch(
        "config.linkerd.io/proxy-disable-outbound-protocol-detect-timeout",
        "proxy.disableOutboundProtocolDetectTimeout",
        "false",
        "Waits without end for a client's first bytes on outbound connections.",
    ),
    _switch(
        "config.linkerd.io/proxy-disable-inbound-protocol-detect-timeout",
        "proxy.disableInboundProtocolDetectTimeout",
        "false",
        "Waits without end for a client's first bytes on inbound connections.",
    ),
    _choice(
        "config.linkerd.io/default-inbound-policy",
        _POLICIES,
        "proxy.defaultInboundPolicy",
        "all-unauthenticated",
        "Which inbound connections are allowed where no policy says otherwise.",
    ),
)

_LIFE = (
    _choice(
        "config.linkerd.io/proxy-await",
        _ENABLED,
        "proxy.await",
        "enabled",
        "Whether the application starts only when the proxy is ready.",
    ),
    _switch(
        "config.linkerd.io/proxy-enable-native-sidecar",
        "proxy.nativeSidecar",
        "true",
        "Runs the proxy as a native sidecar: an init container that stays.",
    ),
    _switch(
        "config.beta.linkerd.io/proxy-enable-native-sidecar",
        "proxy.nativeSidecar",
        "true",
        "The older name of `config.linkerd.io/proxy-enable-native-sidecar`, void beside it.",
        hidden_by=(NATIVE_SIDECAR,),
    ),
    _switch(
        "config.alpha.linkerd.io/proxy-enable-native-sidecar",
        "proxy.nativeSidecar",
        "true",
        "The oldest name of `config.linkerd.io/proxy-enable-native-sidecar`, void beside either.",
        hidden_by=(NATIVE_SIDECAR, "config.beta.linkerd.io/proxy-enable-native-sidecar"),
    ),
    _row(
        "config.alpha.linkerd.io/proxy-wait-before-exit-seconds",
        "whole seconds",
        int_between(0, _MAX_ID),
        "proxy.waitBeforeExitSeconds",
        "0",
        "How long the proxy waits before it stops; without effect on a native sidecar.",
        bounds="0 or more",
    ),
    _row(
        "config.linkerd.io/shutdown-grace-period",
        "duration",
        parse_milliseconds,
        "proxy.shutdownGracePeriod",
        "",
        "How long the proxy lets open connections finish when it stops.",
    ),
    _row(
        "config.linkerd.io/close-wait-timeout",
        "duration",
        parse_whole_seconds,
        "proxyInit.closeWaitTimeoutSecs",
        "0s",
        "Sets the kernel's time-out for connections in CLOSE_WAIT; takes proxyInit.runAsRoot.",
    ),
    _row(
        "config.linkerd.io/proxy-additional-env",
        "JSON list of EnvVars",
        parse_env,
        "proxy.additionalEnv",
        "[]",
        "Environment variables to add to the proxy's; namespace and pod are merged by name.",
        merges=True,
        longest=LONGEST_ENV,
        secret=True,
    ),
)

_TRACES = (
    _row(
        "config.linkerd.io/trace-collector",
        "address",
        parse_host_port,
        "proxy.tracing.collector.endpoint",
        "",
        "The OpenTelemetry collector to which the proxy sends its traces, by gRPC; turns them on.",
        bounds="HOST:PORT",
        derives=("proxy.tracing.enabled", lambda _: True),
    ),
    _row(
        "resource.opentelemetry.io/<name>",
        "text",
        parse_text,
        None,
        "",
        "An attribute of the pod's traces, where tracing is on.",
        inherited=False,
    ),
)

ANNOTATIONS: tuple[Annotation, ...] = (
    _INJECTION + _IMAGES + _PORTS + _RESOURCES + _OBSERVING + _TRAFFIC + _LIFE + _TRACES
)
"""Every annotation that is known, in the order of the documentation."""

BY_KEY: Mapping[str, Annotation] = {row.key: row for row in ANNOTATIONS}

REMOVED = frozenset(
    PREFIX + name
    for name in (
        "disable-identity",
        "init-image",
        "init-image-version",
        "proxy-init-image",
        "proxy-init-image-version",
    )
)
"""Keys of older Linkerd versions that have lost their meaning."""

_PREFIXES = (PREFIX, BETA_PREFIX, ALPHA_PREFIX)
_LABELS = frozenset((PREFIX + "admission-webhooks",))


def is_unknown(key: str) -> bool:
    """Whether a key is in our part of the vocabulary, but means nothing: most likely a typing
    error. (Labels of namespaces that stand among annotations are harmless.)"""
    return key.startswith(_PREFIXES) and key not in BY_KEY and key not in _LABELS
