"""Tells the pods that Linkerd's injector meshed, and which annotations theirs inherit."""

from __future__ import annotations

from cni_plugin.pods.proxy_settings import PROXY
from cni_plugin.pods.source import Pod
from vocabulary.annotations.redirect import ANNOTATION

LINKERD_INIT = "linkerd-init"
_CONTROL_PLANE_LABEL = "linkerd.io/control-plane-component"

INHERITED = tuple(
    f"config.linkerd.io/{key}"
    for key in (
        "skip-inbound-ports",
        "skip-outbound-ports",
        "skip-subnets",
        "skip-outbound-subnets",
        "proxy-uid",
        "proxy-gid",
        "inbound-port",
        "outbound-port",
        "admin-port",
        "control-port",
    )
)
"""Annotations that are taken from the namespace where the pod has none of its own (Linkerd's plugin
takes five of them). What the proxy's container says comes before both."""


def is_linkerds(pod: Pod) -> bool:
    """Whether Linkerd's injector meshed the pod and left its rules to the CNI plugin."""
    inits = pod.init_container_names
    return (
        ANNOTATION not in pod.annotations
        and LINKERD_INIT not in inits
        and PROXY in pod.container_names | inits
    )


def wants_api_server(pod: Pod) -> bool:
    """Whether the pod is of Linkerd's control plane, and must reach the API server directly: its
    own proxy cannot be ready before it has."""
    return is_linkerds(pod) and bool(pod.labels.get(_CONTROL_PLANE_LABEL))
