"""Checks of the CNI plugin's installation, with Linkerd's ids and texts."""

from __future__ import annotations

from injector.core.model import Object
from kubeapi import reading
from meshgraft.audit.model import labels_of
from meshgraft.checks.model import Category, Check, Options, Ref, Skip, Snapshot
from meshgraft.checks.parts import config_map, settings
from meshgraft.installed import CNI, CNI_CONFIG_MAP

_FIX = "Install the plugin: meshgraft install-cni | kubectl apply -f -"

_MOST_NODES = 5


def _config_map(options: Options) -> Ref:
    return Ref(reading.CONFIG_MAPS, CNI_CONFIG_MAP, options.cni_namespace)


def _service_account(options: Options) -> Ref:
    return Ref(reading.SERVICE_ACCOUNTS, CNI, options.cni_namespace)


def _daemon_set(options: Options) -> Ref:
    return Ref(reading.DAEMON_SETS, CNI, options.cni_namespace)


_CLUSTER_ROLE = Ref(reading.CLUSTER_ROLES, CNI)
_CLUSTER_ROLE_BINDING = Ref(reading.CLUSTER_ROLE_BINDINGS, CNI)


def _see(snapshot: Snapshot) -> None:
    """The plugin is asked for by the flag, or by the settings that are installed.

    Raises:
        Skip: by neither.
    """
    if not (snapshot.options.cni or settings(snapshot).cni_enabled):
        raise Skip


def _exists(snapshot: Snapshot, ref: Ref, kind: str) -> str | None:
    _see(snapshot)
    return None if snapshot.find(ref) else f"missing {kind}: {ref.name}"


def _map_exists(snapshot: Snapshot) -> str | None:
    _see(snapshot)
    ref = _config_map(snapshot.options)
    return None if snapshot.find(ref) else f'configmaps "{ref.name}" not found'


def _is_ready(snapshot: Snapshot) -> str | None:
    _see(snapshot)
    status = snapshot.need(_daemon_set(snapshot.options)).get("status") or {}
    ready, wanted = status.get("numberReady", 0), status.get("desiredNumberScheduled", 0)
    if ready == wanted and wanted:
        return None
    return f"number ready: {ready}, number scheduled: {wanted}"


def _agents(options: Options) -> Ref:
    return Ref(reading.PODS, "", options.cni_namespace, "k8s-app=linkerd-cni", keep=_node_of)


def _nodes() -> Ref:
    return Ref(reading.NODES, keep=_slim)


def _node_of(pod: Object) -> Object:
    return {"metadata": pod["metadata"], "node": (pod.get("spec") or {}).get("nodeName")}


def _slim(node: Object) -> Object:
    meta = node["metadata"]
    return {"metadata": {"name": meta["name"], "labels": meta.get("labels") or {}}}


def _runs_pods(node: Object) -> bool:
    """Whether Linux pods with a network of their own run there."""
    labels = labels_of(node)
    virtual = labels.get("type") == "virtual-kubelet" or (
        labels.get("eks.amazonaws.com/compute-type") == "fargate"
    )
    return labels.get("kubernetes.io/os", "linux") == "linux" and not virtual


def _is_everywhere(snapshot: Snapshot) -> str | None:
    _see(snapshot)
    snapshot.need(_daemon_set(snapshot.options))
    has_agent = {pod["node"] for pod in snapshot.all(_agents(snapshot.options))}
    nodes = [each for each in snapshot.all(_nodes()) if _runs_pods(each)]
    missing = sorted({each["metadata"]["name"] for each in nodes} - has_agent)
    if not missing:
        return None
    shown = ", ".join(missing[:_MOST_NODES]) + (", ..." if len(missing) > _MOST_NODES else "")
    return f"no agent on {len(missing)} of {len(nodes)} nodes: {shown}"


def _is_used(snapshot: Snapshot) -> str | None:
    if snapshot.options.cni or snapshot.find(_daemon_set(snapshot.options)) is None:
        raise Skip
    if settings(snapshot).cni_enabled:
        return None
    return "the plugin is installed, and the injector gives pods init containers with NET_ADMIN"


def _objects(options: Options) -> tuple[Ref, ...]:
    return (
        config_map(options),
        _config_map(options),
        _CLUSTER_ROLE,
        _CLUSTER_ROLE_BINDING,
        _service_account(options),
        _daemon_set(options),
    )


LINKERD_CNI_PLUGIN = Category(
    name="linkerd-cni-plugin",
    applies=lambda options: options.cni or not options.pre,
    objects=_objects,
    lists=lambda options: (_agents(options), _nodes()),
    checks=(
        Check(
            id="cni-plugin-cm-exists",
            text="cni plugin ConfigMap exists",
            run=_map_exists,
            fix=_FIX,
            why="The ConfigMap says where the nodes keep their CNI files, and what the plugin's"
            " entry is to be.",
        ),
        Check(
            id="cni-plugin-cr-exists",
            text="cni plugin ClusterRole exists",
            run=lambda snapshot: _exists(snapshot, _CLUSTER_ROLE, "ClusterRole"),
            fix=_FIX,
            why="The agent reads pods and namespaces by this role.",
        ),
        Check(
            id="cni-plugin-crb-exists",
            text="cni plugin ClusterRoleBinding exists",
            run=lambda snapshot: _exists(snapshot, _CLUSTER_ROLE_BINDING, "ClusterRoleBinding"),
            fix=_FIX,
            why="It gives the role to the agent.",
        ),
        Check(
            id="cni-plugin-sa-exists",
            text="cni plugin ServiceAccount exists",
            run=lambda snapshot: _exists(
                snapshot, _service_account(snapshot.options), "ServiceAccount"
            ),
            fix=_FIX,
            why="The agent runs as this account.",
        ),
        Check(
            id="cni-plugin-ds-exists",
            text="cni plugin DaemonSet exists",
            run=lambda snapshot: _exists(snapshot, _daemon_set(snapshot.options), "DaemonSet"),
            fix=_FIX,
            why="It runs the agent on each node.",
        ),
        Check(
            id="cni-plugin-ready",
            text="cni plugin pod is running on all nodes",
            run=_is_ready,
            fix="Look at the pods that are not ready: kubectl -n linkerd-cni describe pods",
            why="A node whose agent is not ready cannot start meshed pods: they wait there.",
            retriable=True,
        ),
        Check(
            id="meshgraft-cni-nodes",
            text="cni plugin has an agent on each node",
            run=_is_everywhere,
            fix="See which nodes the DaemonSet leaves out: its nodeSelector, affinity and"
            " tolerations.",
            why="On a node without an agent, meshed pods are held back by their validator.",
            warning=True,
        ),
        Check(
            id="meshgraft-cni-used",
            text="cni plugin is used by the injector",
            run=_is_used,
            fix="Install the injector with --linkerd-cni-enabled, or take the plugin away.",
            why="Pods carry NET_ADMIN although the plugin makes that unnecessary.",
            warning=True,
        ),
    ),
)
