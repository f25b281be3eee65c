"""``meshgraft install``: prints the manifests of the injector, for ``kubectl apply -f -``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from meshgraft._errors import CommandError
from meshgraft.charts.helm import Tree
from meshgraft.charts.location import chart_dir
from meshgraft.charts.values_files import read_values
from meshgraft.commands._charts import ValueFlags, layers, print_manifests
from meshgraft.commands._profiles import ProfileName
from meshgraft.commands._trust_anchors import from_cluster, from_file

NAMESPACE = "meshgraft"

_Switch = Parameter(negative="", show_default=False)
_NO_FLAGS = ValueFlags()
_ANCHORS = "identityTrustAnchorsPEM"


def install(
    *,
    ha: Annotated[bool, _Switch] = False,
    linkerd_cni_enabled: Annotated[bool, _Switch] = False,
    mesh: Annotated[bool, _Switch] = False,
    profile: ProfileName | None = None,
    webhook_failure_policy: Literal["Ignore", "Fail"] | None = None,
    controller_replicas: int | None = None,
    identity_trust_anchors_file: Path | None = None,
    linkerd_namespace: Annotated[str | None, Parameter(alias="-L")] = None,
    kubeconfig: Path | None = None,
    context: str | None = None,
    ignore_cluster: Annotated[bool, _Switch] = False,
    flags: ValueFlags = _NO_FLAGS,
) -> None:
    """Print the manifests of the injector, for kubectl apply -f -; again, to upgrade.

    Parameters
    ----------
    ha
        High availability: three replicas on nodes and in zones of their own, and the webhook's
        failurePolicy Fail.
    linkerd_cni_enabled
        The CNI plugin sets pods' traffic rules (install-cni), so that they need no NET_ADMIN.
    mesh
        The proxies prove who they are to each other (mTLS), and choose among a Service's endpoints.
        Wants install-cni --mesh.
    profile
        Which proxy pods get. Default: envoy. With node, a proxy is installed on each node too.
    webhook_failure_policy
        What becomes of a new pod while the injector cannot answer: Ignore lets it start without a
        proxy, Fail refuses it. Default: Ignore, and Fail with --ha.
    controller_replicas
        Replicas of the injector. Default: 1, and 3 with --ha.
    identity_trust_anchors_file
        Linkerd's trust anchors (PEM), for profile linkerd. Default: those of the cluster, in the
        ConfigMap linkerd-identity-trust-roots.
    linkerd_namespace
        The namespace of Linkerd's control plane. Default: linkerd.
    kubeconfig
        The cluster to read them from. Default: $KUBECONFIG, or ~/.kube/config.
    context
        Its context, by name. Default: the current one.
    ignore_cluster
        Ask no cluster.
    """
    cni = linkerd_cni_enabled or mesh
    given = _given(cni, profile, webhook_failure_policy, controller_replicas)
    if mesh:
        given["meshgraft"] = {**given.get("meshgraft", {}), "mesh": {"enabled": True}}
    if linkerd_namespace:
        given["linkerdNamespace"] = linkerd_namespace
    preset = read_values(chart_dir("meshgraft") / "values-ha.yaml") if ha else {}
    values = layers(
        "meshgraft", {**preset, "createNamespace": True, "managedBy": "meshgraft"}, flags, given
    )
    if identity_trust_anchors_file is not None:
        values.append({_ANCHORS: from_file(identity_trust_anchors_file)})
    elif profile == "linkerd" and not ignore_cluster and not _says_anchors(values, flags):
        anchors = from_cluster(kubeconfig, context, _linkerd_namespace(values))
        values.append({_ANCHORS: anchors})
    print_manifests("meshgraft", NAMESPACE, values, flags)


def _given(
    cni: bool, profile: ProfileName | None, failure_policy: str | None, replicas: int | None
) -> Tree:
    """What flags say, as values of the chart."""
    given: dict[str, Any] = {}
    if cni:
        given["cniEnabled"] = True
    if profile is not None:
        given["meshgraft"] = {"profile": profile}
    if profile == "node":
        given["nodeProxy"] = {"enabled": True}
    if failure_policy is not None:
        given["webhookFailurePolicy"] = failure_policy
    if replicas is not None:
        if replicas < 0:
            raise CommandError(f"--controller-replicas {replicas}: expected 0 or more")
        given["controllerReplicas"] = replicas
    return given


def _says_anchors(values: list[Tree], flags: ValueFlags) -> bool:
    assignments = (*flags.set, *flags.set_string, *flags.set_file)
    return any(layer.get(_ANCHORS) for layer in values) or any(
        assignment.startswith(f"{_ANCHORS}=") for assignment in assignments
    )


def _linkerd_namespace(values: list[Tree]) -> str:
    said = [str(layer["linkerdNamespace"]) for layer in values if layer.get("linkerdNamespace")]
    return said[-1] if said else "linkerd"
