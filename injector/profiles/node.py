"""Profile ``node``: no sidecar; the application is told where its node's proxy is.

The way of Linkerd 1.x: a DaemonSet runs one proxy on each node, and an application reaches it
through the variables that HTTP clients read anyway. Nothing is redirected.
"""

from __future__ import annotations

from injector.core.marks import PROFILE, Marks
from injector.core.model import Additions, BuildInput, Object
from injector.core.values import NodeValues
from vocabulary.annotations import BY_KEY, INJECT, OPAQUE_PORTS

_NO_PROXY = (
    "localhost",
    "127.0.0.1",
    "::1",
    # The API server, which a client reaches with TLS and must reach without a proxy.
    "$(KUBERNETES_SERVICE_HOST)",
    "kubernetes.default.svc",
)


class NodeProfile:
    """Variables for each of the pod's own containers that does not set them itself."""

    name = "node"
    ignores = frozenset(BY_KEY) - {INJECT, OPAQUE_PORTS}

    @property
    def marks(self) -> Marks:
        """The variables, whatever the ports in them are."""
        variables = _variables(NodeValues())
        return Marks(profile=self.name, variables={each["name"]: each for each in variables})

    def build(self, given: BuildInput) -> Additions:
        """``NODE_NAME`` comes first: Kubernetes expands only what was defined before."""
        return Additions(
            annotations={PROFILE: self.name},
            container_env=_variables(given.values.meshgraft.node),
        )


def _variables(node: NodeValues) -> tuple[Object, ...]:
    return (
        {"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        _variable("http_proxy", f"$(NODE_NAME):{node.http_port}"),
        _variable("MESHGRAFT_HTTP2_PROXY", f"$(NODE_NAME):{node.http2_port}"),
        _variable("MESHGRAFT_GRPC_PROXY", f"$(NODE_NAME):{node.grpc_port}"),
        _variable("no_proxy", ",".join(_NO_PROXY)),
    )


def _variable(name: str, value: str) -> Object:
    return {"name": name, "value": value}
