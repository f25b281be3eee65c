"""Decides what an ADD means for a pod: redirect its traffic, leave it alone, or look the pod up.

Pure. What is known is taken in the order of its price: the namespace, the annotations that the
runtime handed over, the pod's object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from cni_plugin.agent.netconf import LinkerdConf, NetConf, PodArgs
from cni_plugin.pods.linkerd import LINKERD_INIT, is_linkerds, wants_api_server
from cni_plugin.pods.proxy_settings import proxy_settings
from cni_plugin.pods.source import API_SERVER_PORTS, Pod
from cni_plugin.spec import CniError, Code
from vocabulary.annotations.parse import (
    BadItems,
    BadValue,
    parse_cidr_list,
    parse_int,
    parse_port_list,
    shortened,
)
from vocabulary.annotations.redirect import (
    ANNOTATION,
    CREATED_BY,
    WEBHOOK,
    BadRedirect,
    PortRange,
    Redirect,
    parse_redirect,
)
from vocabulary.defaults import INBOUND_PORT, OUTBOUND_PORT
from vocabulary.mesh import ENABLED, MESH_ANNOTATION

T = TypeVar("T")

MARKS = (
    ANNOTATION,
    "linkerd.io/proxy-version",
    CREATED_BY,
    "linkerd.io/trust-root-sha256",
)
"""What our injector and Linkerd's leave on a pod they mesh; the static program knows them too."""


_MAX_ID = 2**31 - 1


class Reason(StrEnum):
    """Why a pod was treated as it was; stable, for logs and metrics."""

    EXCLUDED_NAMESPACE = "excluded-namespace"
    NOT_A_POD = "not-a-kubernetes-pod"
    REDIRECT_ANNOTATION = "redirect-annotation"
    NO_MARK = "no-mark"
    NOT_BY_CNI = "not-by-cni"
    """Our injector meshed the pod in another way: an init container, or the node's proxy."""
    PROXY_CONTAINER = "proxy-container"
    PROXY_INIT = "linkerd-init-container"
    NO_PROXY = "no-proxy-container"


@dataclass(frozen=True, slots=True)
class Redirected:
    """The pod's rules shall be these. ``warnings`` name values that were left out as unusable."""

    redirect: Redirect
    reason: Reason
    warnings: tuple[str, ...] = ()
    in_mesh: bool = False
    """Whether the pod's proxy gets its identity and its destinations from the mesh."""


@dataclass(frozen=True, slots=True)
class PassThrough:
    """The pod is not our business; its result is handed on as it came."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class NeedPod:
    """What was handed over does not tell; ask again with the pod's object."""


Decision = Redirected | PassThrough | NeedPod


def decide(
    netconf: NetConf,
    args: PodArgs,
    pod: Pod | None = None,
    api_server_ports: Sequence[int] = API_SERVER_PORTS,
) -> Decision:
    """What to do with one pod; with its object the answer is never `NeedPod`.

    ``api_server_ports`` count only for a pod of which `wants_api_server` is true.

    Raises:
        CniError: the pod's ``meshgraft.io/redirect`` is not usable (code 7, names the pod).
    """
    if args.namespace in netconf.excluded_namespaces:
        return PassThrough(Reason.EXCLUDED_NAMESPACE)
    handed = netconf.annotations
    if handed is not None and ANNOTATION in handed:
        return _annotated(handed, args)
    if handed is not None and not any(mark in handed for mark in MARKS):
        return PassThrough(Reason.NO_MARK)
    if handed is not None and handed.get(CREATED_BY, "").startswith(WEBHOOK + " "):
        return PassThrough(Reason.NOT_BY_CNI)
    if not args.named:
        return PassThrough(Reason.NOT_A_POD)
    if pod is None:
        return NeedPod()
    return _from_object(netconf.linkerd, args, pod, api_server_ports)


def _annotated(annotations: Mapping[str, str], args: PodArgs) -> Redirected:
    try:
        return Redirected(
            parse_redirect(annotations[ANNOTATION]),
            Reason.REDIRECT_ANNOTATION,
            in_mesh=annotations.get(MESH_ANNOTATION) == ENABLED,
        )
    except BadRedirect as error:
        raise CniError(Code.BAD_CONFIG, f"pod {args}: annotation {error}") from error


def _from_object(
    conf: LinkerdConf, args: PodArgs, pod: Pod, api_server_ports: Sequence[int]
) -> Redirected | PassThrough:
    """Linkerd's rule: a proxy, and no init container that sets the rules itself."""
    if ANNOTATION in pod.annotations:
        return _annotated(pod.annotations, args)
    if LINKERD_INIT in pod.init_container_names:
        return PassThrough(Reason.PROXY_INIT)
    if not is_linkerds(pod):
        return PassThrough(Reason.NO_PROXY)
    direct = api_server_ports if wants_api_server(pod) else ()
    return _linkerd_redirect(conf, pod, direct)


class _Annotations:
    """Reads ``config.linkerd.io/*``; what is not usable becomes a warning, as its default holds."""

    def __init__(self, pod: Pod) -> None:
        self._annotations = pod.annotations
        self._told = proxy_settings(pod)
        self.warnings: list[str] = []

    def number(self, key: str, default: int, lower: int, upper: int) -> int:
        """A whole number within inclusive bounds; by the proxy's container, if that tells it."""
        if key in self._told:
            return self._told[key]
        text = self._get(key)
        try:
            return parse_int(text, lower, upper) if text else default
        except BadValue as error:
            self._warn(key, text, error, f"taking {default}")
            return default

    def items(
        self, key: str, parse: Callable[[str], tuple[T, ...]], default: tuple[T, ...]
    ) -> tuple[T, ...]:
        """A list; where it is there and not empty it replaces the default."""
        text = self._get(key)
        return self.parsed(key, text, parse) if text else default

    def parsed(self, what: str, text: str, parse: Callable[[str], tuple[T, ...]]) -> tuple[T, ...]:
        """The good items of a list."""
        try:
            return parse(text) if text else ()
        except BadItems as error:
            self._warn(what, text, error, "taking the other items")
            good: tuple[T, ...] = error.good
            return good

    def _get(self, key: str) -> str:
        return self._annotations.get(f"config.linkerd.io/{key}", "").strip()

    def _warn(self, what: str, text: str, error: BadValue, instead: str) -> None:
        self.warnings.append(f"{what}: {shortened(text)!r}: expected {error}; {instead}")


def _joined(items: Iterable[int | str]) -> str:
    return ",".join(str(item) for item in items)


def _linkerd_redirect(conf: LinkerdConf, pod: Pod, direct: Sequence[int]) -> Redirected:
    """The plugin entry's ``linkerd`` keys, with the pod's annotations laid over them, and the ports
    that are always reached directly.

    As in Linkerd's plugin, except for: the pod's proxy ports count too, list items are trimmed, and
    a uid that is no number does not fail the pod.
    """
    read = _Annotations(pod)
    uid = read.number("proxy-uid", conf.proxy_uid, 0, _MAX_ID)
    gid = read.number("proxy-gid", conf.proxy_gid, 0, _MAX_ID)
    redirect = Redirect(
        inbound_port=read.number(
            "inbound-port", conf.incoming_proxy_port or INBOUND_PORT, 1, 65535
        ),
        outbound_port=read.number(
            "outbound-port", conf.outgoing_proxy_port or OUTBOUND_PORT, 1, 65535
        ),
        proxy_uid=max(uid, 0),
        proxy_gid=gid if gid > 0 else None,
        only_inbound_ports=read.parsed(
            "linkerd.ports-to-redirect", _joined(conf.ports_to_redirect), parse_port_list
        ),
        skip_inbound_ports=_skip_inbound(read, conf),
        skip_outbound_ports=_skip_outbound(read, conf, direct),
        skip_subnets=read.items(
            "skip-subnets",
            parse_cidr_list,
            read.parsed(
                "linkerd.subnets-to-ignore", _joined(conf.subnets_to_ignore), parse_cidr_list
            ),
        ),
        skip_outbound_subnets=read.items("skip-outbound-subnets", parse_cidr_list, ()),
        ipv6=conf.ipv6,
    )
    return Redirected(redirect, Reason.PROXY_CONTAINER, tuple(read.warnings))


def _skip_inbound(read: _Annotations, conf: LinkerdConf) -> tuple[PortRange, ...]:
    """The entry's list, the proxy's own ports where the pod moved them, and the pod's list."""
    listed = read.parsed(
        "linkerd.inbound-ports-to-ignore", _joined(conf.inbound_ports_to_ignore), parse_port_list
    )
    own = (read.number("control-port", 0, 1, 65535), read.number("admin-port", 0, 1, 65535))
    moved = tuple(PortRange(port, port) for port in own if port)
    return _unique(listed + moved + read.items("skip-inbound-ports", parse_port_list, ()))


def _skip_outbound(
    read: _Annotations, conf: LinkerdConf, direct: Sequence[int]
) -> tuple[PortRange, ...]:
    """The pod's list or else the entry's, and what is reached directly in any case."""
    listed = read.parsed(
        "linkerd.outbound-ports-to-ignore", _joined(conf.outbound_ports_to_ignore), parse_port_list
    )
    ports = read.items("skip-outbound-ports", parse_port_list, listed)
    return _unique(ports + tuple(PortRange(port, port) for port in direct))


def _unique(ports: tuple[PortRange, ...]) -> tuple[PortRange, ...]:
    return tuple(dict.fromkeys(ports))
