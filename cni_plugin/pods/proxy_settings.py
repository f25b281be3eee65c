"""Reads from a pod's proxy container at which ports and as whom the proxy really runs.

An annotation says what somebody wants. It may be changed, or come to the namespace, after the pod
was made, but the proxy keeps what its container says: rules by the annotation would then lead to
a port where nobody listens, or the proxy's own traffic back to itself. So the container counts
first. Source: Linkerd's ``_proxy.tpl``.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from cni_plugin.pods.source import Container, Pod, Spec
from vocabulary.annotations.parse import BadValue, parse_int

PROXY = "linkerd-proxy"

_PORTS = {
    "LINKERD2_PROXY_INBOUND_LISTEN_ADDR": "inbound-port",
    "LINKERD2_PROXY_OUTBOUND_LISTEN_ADDR": "outbound-port",
    "LINKERD2_PROXY_OUTBOUND_LISTEN_ADDRS": "outbound-port",
    "LINKERD2_PROXY_CONTROL_LISTEN_ADDR": "control-port",
    "LINKERD2_PROXY_ADMIN_LISTEN_ADDR": "admin-port",
}
_LAST_PORT = 65535
_LAST_ID = 2**31 - 1


def proxy_settings(pod: Pod) -> Mapping[str, int]:
    """By the names of their annotations (``inbound-port``), without ``config.linkerd.io/``; only
    what the container says in a form that is understood."""
    proxy = _proxy(pod.spec)
    if proxy is None:
        return {}
    user = proxy.security_context
    ids = {"proxy-uid": user.run_as_user, "proxy-gid": user.run_as_group} if user else {}
    found = {key: number for key, number in ids.items() if number is not None}
    for variable in proxy.env or ():
        port = _port(variable.value)
        if variable.name in _PORTS and port:
            found[_PORTS[variable.name]] = port
    return {key: number for key, number in found.items() if 0 <= number <= _LAST_ID}


def slim(spec: Spec) -> Spec:
    """The spec with nothing of its containers but their names, and what is read here."""
    return msgspec.structs.replace(
        spec,
        containers=_slim(spec.containers),
        init_containers=_slim(spec.init_containers),
    )


def _slim(containers: list[Container] | None) -> list[Container] | None:
    return containers and [
        msgspec.structs.replace(each, env=[item for item in each.env or () if item.name in _PORTS])
        if each.name == PROXY
        else Container(each.name)
        for each in containers
    ]


def _proxy(spec: Spec) -> Container | None:
    """A native sidecar is an init container."""
    every = [*(spec.containers or ()), *(spec.init_containers or ())]
    return next((each for each in every if each.name == PROXY), None)


def _port(address: str | None) -> int | None:
    """The port of ``0.0.0.0:4143``, or of the first of several with commas between."""
    text = (address or "").partition(",")[0].rpartition(":")[2]
    try:
        return parse_int(text, 1, _LAST_PORT)
    except BadValue:
        return None
