"""Checks of the CNI plugin's installation, with Linkerd's ids and texts."""

from __future__ import annotations

from kubeapi import reading
from meshgraft.checks.model import Category, Check, Options, Ref, Skip, Snapshot
from meshgraft.checks.parts import config_map, settings
from meshgraft.installed import CNI, CNI_CONFIG_MAP

_FIX = "Install the plugin: meshgraft install-cni | kubectl apply -f -"


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
    ),
)
