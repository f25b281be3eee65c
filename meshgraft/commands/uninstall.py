"""``meshgraft uninstall``: prints what an installation made, for ``kubectl delete -f -``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from meshgraft.charts.manifests import stream

_RBAC = "rbac.authorization.k8s.io/v1"


@dataclass(frozen=True, slots=True)
class Ref:
    """One object by its name. Those in a namespace of ours go with it."""

    api_version: str
    kind: str
    name: str
    namespace: str = ""

    def document(self) -> str:
        """As much of the object as tells which one it is."""
        namespace = f"  namespace: {self.namespace}\n" if self.namespace else ""
        return (
            f"apiVersion: {self.api_version}\nkind: {self.kind}\n"
            f"metadata:\n  name: {self.name}\n{namespace}"
        )


INJECTOR = (
    # First, so that no pod waits for a webhook that is on its way out.
    Ref(
        "admissionregistration.k8s.io/v1",
        "MutatingWebhookConfiguration",
        "meshgraft-injector-webhook-config",
    ),
    Ref("v1", "Namespace", "meshgraft"),
    Ref(_RBAC, "ClusterRoleBinding", "meshgraft-injector"),
    Ref(_RBAC, "ClusterRole", "meshgraft-injector"),
)
"""Certificate (Secret), Lease and what else is in the namespace go with it."""

CNI = (
    # First: an agent that ends and finds its DaemonSet gone takes the plugin out of its node.
    Ref("apps/v1", "DaemonSet", "linkerd-cni", "linkerd-cni"),
    Ref("v1", "Namespace", "linkerd-cni"),
    Ref(_RBAC, "ClusterRoleBinding", "linkerd-cni"),
    Ref(_RBAC, "ClusterRole", "linkerd-cni"),
)

_CNI_WARNING = (
    "‼ once the plugin is gone, pods that are meshed without an init container start no more;"
    " those that run keep their rules"
)


def uninstall(*, cni: Annotated[bool, Parameter(negative="", show_default=False)] = False) -> None:
    """Print the objects that install made, for kubectl delete --ignore-not-found -f -.

    Nothing else is named: no workload, no annotation, no CNI plugin that is somebody else's.
    Pods that are meshed stay so until they are restarted.

    Parameters
    ----------
    cni
        The objects of install-cni instead. They bear the names of Linkerd's own CNI plugin: do
        not delete them where that is what is installed.
    """
    refs = CNI if cni else INJECTOR
    sys.stdout.write(stream(ref.document() for ref in refs))
    if cni:
        print(_CNI_WARNING, file=sys.stderr)
