"""Checks that the injector is there, whole, and working; ids as Linkerd's for the same meaning."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from certificates.lease import WAS_AWAY
from injector.core.model import Object
from injector.core.pods import annotations_of
from injector.service.settings import SettingsError
from kubeapi import reading
from meshgraft.audit.model import moment
from meshgraft.checks.model import Category, Check, Options, Ref, Skip, Snapshot
from meshgraft.checks.parts import WEBHOOK, config_map, deployment, pods
from meshgraft.installed import CERT_LEASE, INJECTOR, settings_in, version_skew

_DAY = timedelta(days=1)

_INSTALL = "Install the injector again: meshgraft install | kubectl apply -f -"
_CLUSTER_ROLE = Ref(reading.CLUSTER_ROLES, INJECTOR)
_CLUSTER_ROLE_BINDING = Ref(reading.CLUSTER_ROLE_BINDINGS, INJECTOR)


def _namespace(options: Options) -> Ref:
    return Ref(reading.NAMESPACES, options.mesh_namespace)


def _service_account(options: Options) -> Ref:
    return Ref(reading.SERVICE_ACCOUNTS, INJECTOR, options.mesh_namespace)


def _service(options: Options) -> Ref:
    return Ref(reading.SERVICES, INJECTOR, options.mesh_namespace)


def _missing(snapshot: Snapshot, ref: Ref, kinds: str) -> str | None:
    return None if snapshot.find(ref) else f"missing {kinds}: {ref.name}"


def _namespace_exists(snapshot: Snapshot) -> str | None:
    ref = _namespace(snapshot.options)
    return None if snapshot.find(ref) else f'The "{ref.name}" namespace does not exist'


MESHGRAFT_CONFIG = Category(
    name="meshgraft-config",
    applies=lambda options: not options.pre,
    objects=lambda options: (
        _namespace(options),
        _CLUSTER_ROLE,
        _CLUSTER_ROLE_BINDING,
        _service_account(options),
        _service(options),
        WEBHOOK,
    ),
    checks=(
        Check(
            id="l5d-existence-ns",
            text="control plane Namespace exists",
            run=_namespace_exists,
            fix=_INSTALL,
            why="Nothing is installed, or it is in another namespace (--meshgraft-namespace).",
            fatal=True,
        ),
        Check(
            id="l5d-existence-cr",
            text="control plane ClusterRoles exist",
            run=lambda snapshot: _missing(snapshot, _CLUSTER_ROLE, "ClusterRoles"),
            fix=_INSTALL,
            why="Without it the injector may not read namespaces, and is never ready.",
        ),
        Check(
            id="l5d-existence-crb",
            text="control plane ClusterRoleBindings exist",
            run=lambda snapshot: _missing(snapshot, _CLUSTER_ROLE_BINDING, "ClusterRoleBindings"),
            fix=_INSTALL,
            why="It gives the ClusterRole to the injector.",
        ),
        Check(
            id="l5d-existence-sa",
            text="control plane ServiceAccounts exist",
            run=lambda snapshot: _missing(
                snapshot, _service_account(snapshot.options), "ServiceAccounts"
            ),
            fix=_INSTALL,
            why="The injector runs as this account; without it no replica is created.",
        ),
        Check(
            id="meshgraft-existence-svc",
            text="control plane Services exist",
            run=lambda snapshot: _missing(snapshot, _service(snapshot.options), "Services"),
            fix=_INSTALL,
            why="The API server reaches the webhook through this Service.",
        ),
        Check(
            id="l5d-existence-mwc",
            text="control plane MutatingWebhookConfigurations exist",
            run=lambda snapshot: _missing(snapshot, WEBHOOK, "MutatingWebhookConfigurations"),
            fix=_INSTALL,
            why="Without it the API server asks nobody about new pods, and none gets a proxy.",
        ),
    ),
)


def _config_exists(snapshot: Snapshot) -> str | None:
    ref = config_map(snapshot.options)
    return None if snapshot.find(ref) else f'configmaps "{ref.name}" not found'


def _config_is_usable(snapshot: Snapshot) -> str | None:
    ref = config_map(snapshot.options)
    found = snapshot.need(ref)
    try:
        settings_in(found, str(ref))
    except SettingsError as error:
        return str(error)
    return None


def _deployment_exists(snapshot: Snapshot) -> str | None:
    ref = deployment(snapshot.options)
    return None if snapshot.find(ref) else f"missing Deployments: {ref.name}"


def _pods_are_ready(snapshot: Snapshot) -> str | None:
    found = snapshot.need(deployment(snapshot.options))
    wanted = (found.get("spec") or {}).get("replicas", 1)
    status = found.get("status") or {}
    ready = status.get("readyReplicas", 0)
    if not wanted:
        return "the Deployment is scaled down to 0 replicas"
    if ready >= wanted and status.get("updatedReplicas", 0) >= wanted:
        return None
    lines = [f"number ready: {ready}, number wanted: {wanted}"]
    lines += [line for pod in snapshot.all(pods(snapshot.options)) for line in _waiting(pod)]
    return "\n".join(lines)


def _lease(options: Options) -> Ref:
    return Ref(reading.LEASES, CERT_LEASE, options.mesh_namespace)


def _was_not_away(snapshot: Snapshot) -> str | None:
    lease = snapshot.need(_lease(snapshot.options))
    since, _, until = annotations_of(lease).get(WAS_AWAY, "").partition("/")
    at, begun = moment(until), moment(since)
    if at is None or begun is None or snapshot.now - at > _DAY:
        return None
    return f"no injector ran for {(at - begun).total_seconds():.0f} s, until {until}"


def _waiting(pod: Object) -> Iterator[str]:
    """What a replica's containers wait for, in the kubelet's words."""
    status = pod.get("status") or {}
    for container in (*(status.get("initContainerStatuses") or ()), *_statuses(status)):
        waiting = (container.get("state") or {}).get("waiting")
        if waiting:
            words = ": ".join(filter(None, (waiting.get("reason"), waiting.get("message"))))
            yield f"{pod['metadata']['name']}: {container['name']}: {words}"


def _statuses(status: Object) -> list[Object]:
    found: list[Object] = status.get("containerStatuses") or []
    return found


def _are_scheduled(snapshot: Snapshot) -> str | None:
    lines = [
        f"{pod['metadata']['name']}: {condition.get('message', '')}"
        for pod in snapshot.all(pods(snapshot.options))
        for condition in (pod.get("status") or {}).get("conditions") or ()
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False"
    ]
    return "\n".join(lines) or None


def _version_is_ours(snapshot: Snapshot) -> str | None:
    return version_skew(snapshot.need(deployment(snapshot.options)))


MESHGRAFT_EXISTENCE = Category(
    name="meshgraft-existence",
    applies=lambda options: not options.pre,
    objects=lambda options: (config_map(options), deployment(options), _lease(options)),
    lists=lambda options: (pods(options),),
    checks=(
        Check(
            id="l5d-existence-linkerd-config",
            text="'meshgraft-injector-config' config map exists",
            run=_config_exists,
            fix=_INSTALL,
            why="It holds the settings; without it no replica starts.",
        ),
        Check(
            id="meshgraft-config-usable",
            text="'meshgraft-injector-config' config map is usable",
            run=_config_is_usable,
            fix="Fix the values, and install again.",
            why="A replica that starts with such settings ends at once; running ones go on with"
            " the settings before.",
        ),
        Check(
            id="l5d-existence-replicasets",
            text="control plane replica sets exist",
            run=_deployment_exists,
            fix=_INSTALL,
            why="It runs the injector.",
        ),
        Check(
            id="l5d-existence-unschedulable-pods",
            text="no unschedulable pods",
            run=_are_scheduled,
            fix="Give the replicas a node: see kubectl describe pod for what is missing.",
            why="A replica finds no node: too little room, or a rule (anti-affinity, taint,"
            " selector) that no node meets.",
            retriable=True,
        ),
        Check(
            id="l5d-api-control-ready",
            text="control plane pods are ready",
            run=_pods_are_ready,
            fix="Look at kubectl -n meshgraft describe pods, and at the log of the injector.",
            why="While no replica is ready, new pods start without a proxy (failurePolicy Ignore)"
            " or not at all (Fail).",
            retriable=True,
        ),
        Check(
            id="meshgraft-injector-away",
            text="an injector has been running without a gap for a day",
            run=_was_not_away,
            fix="Find the pods that were created meanwhile: meshgraft audit -A",
            why="While no replica runs, pods are created without a proxy (failurePolicy Ignore).",
            warning=True,
        ),
    ),
)

CONTROL_PLANE_VERSION = Category(
    name="control-plane-version",
    applies=lambda options: not options.pre,
    objects=lambda options: (deployment(options),),
    checks=(
        Check(
            id="l5d-version-control",
            text="control plane and cli versions match",
            run=_version_is_ours,
            fix="Use the meshgraft of the injector's version, or upgrade the injector.",
            why="Another version renders other proxies, so that audit tells of differences that"
            " are none.",
            warning=True,
        ),
    ),
)


def _replicas(snapshot: Snapshot) -> int:
    spec = snapshot.need(deployment(snapshot.options)).get("spec") or {}
    wanted: int = spec.get("replicas", 1)
    return wanted


def _is_ha(snapshot: Snapshot) -> None:
    """High availability was asked for where several replicas were.

    Raises:
        Skip: it was not.
    """
    if _replicas(snapshot) < 2:
        raise Skip


def _has_replicas(snapshot: Snapshot) -> str | None:
    _is_ha(snapshot)
    status = snapshot.need(deployment(snapshot.options)).get("status") or {}
    if status.get("availableReplicas", 0) > 1:
        return None
    return f"not enough replicas available for [{INJECTOR}]"


def _budget(options: Options) -> Ref:
    return Ref(reading.POD_DISRUPTION_BUDGETS, INJECTOR, options.mesh_namespace)


def _has_budget(snapshot: Snapshot) -> str | None:
    _is_ha(snapshot)
    ref = _budget(snapshot.options)
    return None if snapshot.find(ref) else f"missing PodDisruptionBudgets: {ref.name}"


def _are_spread(snapshot: Snapshot) -> str | None:
    _is_ha(snapshot)
    placed = [pod["spec"].get("nodeName") for pod in snapshot.all(pods(snapshot.options))]
    nodes = set(filter(None, placed))
    if len(nodes) > 1 or len(placed) < 2:
        return None
    return f"all replicas run on node {', '.join(nodes) or '(none yet)'}"


HA_CHECKS = Category(
    name="meshgraft-ha-checks",
    applies=lambda options: not options.pre,
    objects=lambda options: (deployment(options), _budget(options)),
    lists=lambda options: (pods(options),),
    checks=(
        Check(
            id="l5d-control-plane-replicas",
            text="multiple replicas of control plane pods",
            run=_has_replicas,
            fix="See why the other replicas are not available.",
            why="With one replica, a node that fails takes the webhook along.",
            retriable=True,
        ),
        Check(
            id="meshgraft-ha-budget",
            text="a disruption budget keeps replicas while nodes are drained",
            run=_has_budget,
            fix="Install with --ha, or with enablePodDisruptionBudget: true.",
            why="Without it, a drain of several nodes may take all replicas at once.",
            warning=True,
        ),
        Check(
            id="meshgraft-ha-spread",
            text="replicas run on several nodes",
            run=_are_spread,
            fix="Install with --ha, or with enablePodAntiAffinity: true.",
            why="When that one node fails, the webhook is away.",
            warning=True,
        ),
    ),
)
