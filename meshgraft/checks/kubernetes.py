"""Checks of the cluster itself: reachable, new enough, and whether one may install."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from injector.core.model import Object
from kubeapi import reading
from kubeapi.reading import Kind
from meshgraft.audit.model import moment
from meshgraft.checks.model import Access, Category, Check, Options, Ref, Skip, Snapshot

OLDEST = (1, 29)
"""As the charts say: native sidecars are on by default since 1.29."""
SKEW = timedelta(minutes=5)
"""The kubelet tells of itself at least this often; Linkerd's limit."""


def _client(snapshot: Snapshot) -> str | None:
    return None if snapshot.client is None else str(snapshot.client)


def _api(snapshot: Snapshot) -> str | None:
    if isinstance(snapshot.version, Exception):
        return str(snapshot.version)
    return None


def _version(snapshot: Snapshot) -> str | None:
    if not isinstance(snapshot.version, dict):
        raise Skip
    found = re.match(r"v?(\d+)\.(\d+)", str(snapshot.version.get("gitVersion", "")))
    if found is None:
        return f"the version is not understood: {snapshot.version.get('gitVersion')!r}"
    if (int(found[1]), int(found[2])) < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        return f"Kubernetes is on version {found[0]}, but version {wanted} or more is required"
    return None


KUBERNETES_API = Category(
    name="kubernetes-api",
    checks=(
        Check(
            id="k8s-client",
            text="can initialize the client",
            run=_client,
            fix="Name a cluster: --kubeconfig FILE, or KUBECONFIG.",
            why="There is no usable kubeconfig, so that no cluster can be asked.",
            fatal=True,
        ),
        Check(
            id="k8s-api",
            text="can query the Kubernetes API",
            run=_api,
            fix="See that kubectl version works with the same kubeconfig.",
            why="The API server cannot be reached, or does not accept who you are.",
            fatal=True,
        ),
    ),
)

KUBERNETES_VERSION = Category(
    name="kubernetes-version",
    checks=(
        Check(
            id="k8s-version",
            text="is running the minimum Kubernetes API version",
            run=_version,
            fix="Upgrade the cluster.",
            why="By default the proxy is a native sidecar, which older clusters refuse or, worse,"
            " take for an init container that never ends.",
        ),
    ),
)

_ROLES = Kind("roles", "rbac.authorization.k8s.io")
_ROLE_BINDINGS = Kind("rolebindings", "rbac.authorization.k8s.io")
_NETWORK_POLICIES = Kind("networkpolicies", "networking.k8s.io")
_CLUSTER_WIDE = (
    reading.NAMESPACES,
    reading.CLUSTER_ROLES,
    reading.CLUSTER_ROLE_BINDINGS,
    reading.MUTATING_WEBHOOKS,
)
_NAMESPACED = (
    ("ServiceAccounts", reading.SERVICE_ACCOUNTS),
    ("Services", reading.SERVICES),
    ("Deployments", reading.DEPLOYMENTS),
    ("ConfigMaps", reading.CONFIG_MAPS),
    ("Secrets", reading.SECRETS),
    ("Roles", _ROLES),
    ("RoleBindings", _ROLE_BINDINGS),
    ("NetworkPolicies", _NETWORK_POLICIES),
)


def _slim_node(node: Object) -> Object:
    return {"status": {"conditions": (node.get("status") or {}).get("conditions")}}


_NODES = Ref(reading.NODES, keep=_slim_node, most_pages=1)


def _namespace(options: Options) -> Ref:
    return Ref(reading.NAMESPACES, options.mesh_namespace)


def _is_new(snapshot: Snapshot) -> str | None:
    name = snapshot.options.mesh_namespace
    if snapshot.find(_namespace(snapshot.options)) is None:
        return None
    return f'The "{name}" namespace already exists'


def _cluster_wide(snapshot: Snapshot) -> str | None:
    lacking = [kind.label for kind in _CLUSTER_WIDE if not snapshot.may(Access("create", kind))]
    return f"missing permissions to create {', '.join(lacking)}" if lacking else None


def _can_create(name: str, kind: Kind) -> Check:
    def run(snapshot: Snapshot) -> str | None:
        where = snapshot.options.mesh_namespace
        if snapshot.may(Access("create", kind, where)):
            return None
        return f"missing permissions to create {kind.label} in namespace {where}"

    return Check(
        id=f"pre-k8s-create-{kind.plural}",
        text=f"can create {name}",
        run=run,
        fix=f"Have somebody who may grant you create on {kind.label}, or install for you.",
        why=f"The chart of the injector holds {name}.",
    )


def _can_create_cni(snapshot: Snapshot) -> str | None:
    options = snapshot.options
    if not options.cni:
        raise Skip
    if snapshot.may(Access("create", reading.DAEMON_SETS, options.cni_namespace)):
        return None
    kind = reading.DAEMON_SETS.label
    return f"missing permissions to create {kind} in namespace {options.cni_namespace}"


def _skew(snapshot: Snapshot) -> str | None:
    beats = [beat for node in snapshot.all(_NODES) if (beat := _heartbeat(node))]
    if not beats:
        raise Skip
    newest = max(beats)
    if newest - snapshot.now > SKEW:
        return f"the nodes' clocks are ahead of this machine's by {newest - snapshot.now}"
    if snapshot.now - newest > 2 * SKEW:
        return f"no node has reported for {snapshot.now - newest}, by this machine's clock"
    return None


def _heartbeat(node: Object) -> datetime | None:
    for condition in (node.get("status") or {}).get("conditions") or ():
        if condition.get("type") == "Ready":
            return moment(condition.get("lastHeartbeatTime"))
    return None


def _accesses(options: Options) -> tuple[Access, ...]:
    cni = (Access("create", reading.DAEMON_SETS, options.cni_namespace),) if options.cni else ()
    return (
        *(Access("create", kind) for kind in _CLUSTER_WIDE),
        *(Access("create", kind, options.mesh_namespace) for _, kind in _NAMESPACED),
        *cni,
    )


PRE_SETUP = Category(
    name="pre-kubernetes-setup",
    applies=lambda options: options.pre,
    objects=lambda options: (_namespace(options),),
    lists=lambda _: (_NODES,),
    access=_accesses,
    checks=(
        Check(
            id="pre-ns",
            text="control plane namespace does not already exist",
            run=_is_new,
            fix="Leave out --pre to check what is installed there, or install with another one.",
            why="An installation, or something else, is in that namespace already.",
        ),
        Check(
            id="pre-k8s-cluster-k8s",
            text="can create non-namespaced resources",
            run=_cluster_wide,
            fix="Install as somebody with cluster-admin.",
            why="A Namespace, ClusterRole, ClusterRoleBinding and webhook configuration belong to"
            " no namespace; creating them takes rights in the whole cluster.",
        ),
        *(_can_create(name, kind) for name, kind in _NAMESPACED),
        Check(
            id="pre-k8s-create-daemonsets",
            text="can create DaemonSets",
            run=_can_create_cni,
            fix="Have somebody who may grant you create on daemonsets.apps, or install for you.",
            why="The CNI plugin's agent is a DaemonSet.",
        ),
        Check(
            id="pre-k8s-clock-skew",
            text="no clock skew detected",
            run=_skew,
            fix="Set the clocks of nodes and of this machine by NTP.",
            why="Certificates are valid from and to a time; clocks that differ make them invalid.",
            warning=True,
        ),
    ),
)
