"""Restarting a workload as ``kubectl rollout restart`` does, and when that is done. Pure.

Source: kubectl's polymorphichelpers ``rollout_status.go`` and ``objectrestarter.go``; Argo
Rollouts' ``spec.restartAt``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from injector.core.model import Object, Owner
from kubeapi.reading import DAEMON_SETS, DEPLOYMENTS, STATEFUL_SETS, Kind
from meshgraft.audit.model import Finding

ROLLOUTS = Kind("rollouts", "argoproj.io", "v1alpha1")
_KINDS = {
    "deployment": DEPLOYMENTS,
    "statefulset": STATEFUL_SETS,
    "daemonset": DAEMON_SETS,
    "rollout": ROLLOUTS,
}
_RESTARTED_AT = "kubectl.kubernetes.io/restartedAt"


@dataclass(frozen=True, slots=True, order=True)
class Workload:
    """What is restarted: a Deployment, StatefulSet, DaemonSet or Rollout."""

    namespace: str
    kind: str
    name: str

    @property
    def resource(self) -> Kind:
        """The kind for the API's paths."""
        return _KINDS[self.kind]

    def __str__(self) -> str:
        return f"{self.kind}/{self.name} in namespace {self.namespace}"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to restart, and what is left alone, each with why."""

    workloads: tuple[Workload, ...]
    left: tuple[str, ...]


def plan(findings: Iterable[Finding]) -> Plan:
    """The workloads whose new pods would be as they should be, each once."""
    workloads: dict[Workload, None] = {}
    left: dict[str, None] = {}
    for finding in findings:
        owner = finding.owner
        name = f"{owner.kind}/{owner.name} in namespace {finding.namespace}"
        if not finding.restart_helps:
            left[f"{name}: a restart does not help; see its reasons"] = None
        elif why := _not_restartable(owner):
            left[f"{name}: {why}"] = None
        else:
            workloads[Workload(finding.namespace, owner.kind, owner.name)] = None
    return Plan(tuple(sorted(workloads)), tuple(left))


def _not_restartable(owner: Owner) -> str | None:
    known = _KINDS.get(owner.kind)
    if known and owner.api_version == f"{known.group}/{known.version}":
        return None
    if owner.kind == "pod":
        return "a pod without an owner; delete it and make it anew"
    if owner.kind in ("job", "cronjob"):
        return "it ends by itself; its next pods will be as they should be"
    return "not a kind that can be restarted; delete its pods one by one"


def refusal(workload: Workload, obj: Object) -> str | None:
    """Why a restart of this object would come to nothing, or None."""
    spec = obj.get("spec") or {}
    if spec.get("paused"):
        return f"{workload} is paused; resume it first"
    strategy = (spec.get("updateStrategy") or {}).get("type")
    if strategy == "OnDelete":
        return f"{workload} has updateStrategy OnDelete; delete its pods one by one"
    return None


def restart_patch(workload: Workload, now: str) -> Object:
    """The merge patch that restarts it; ``now`` is RFC 3339."""
    if workload.kind == "rollout":
        return {"spec": {"restartAt": now}}
    return {"spec": {"template": {"metadata": {"annotations": {_RESTARTED_AT: now}}}}}


def pending(workload: Workload, obj: Object) -> str | None:
    """What a restart still waits for, or None where all pods are new and available."""
    status, spec = obj.get("status") or {}, obj.get("spec") or {}
    generation = obj["metadata"].get("generation", 0)
    if workload.kind == "rollout":
        done = status.get("restartedAt") == spec.get("restartAt")
        return None if done and status.get("phase") == "Healthy" else "its pods are being replaced"
    if status.get("observedGeneration", 0) < generation:
        return "its controller has not seen the change yet"
    if workload.kind == "daemonset":
        wanted = status.get("desiredNumberScheduled", 0)
        updated = status.get("updatedNumberScheduled", 0)
        available = status.get("numberAvailable", 0)
        present = wanted
    else:
        wanted = spec.get("replicas", 1)
        updated = status.get("updatedReplicas", 0)
        available = status.get("availableReplicas", 0)
        present = status.get("replicas", 0)
    if updated < wanted or available < wanted or present > wanted:
        return f"{updated} of {wanted} pods are new, {available} available"
    if workload.kind == "statefulset":
        revisions = (status.get("currentRevision"), status.get("updateRevision"))
        partition = ((spec.get("updateStrategy") or {}).get("rollingUpdate") or {}).get("partition")
        if revisions[0] != revisions[1] and not partition:
            return "its last pods are being replaced"
    return None


def failed(obj: Object) -> str | None:
    """Why it will not come about, as a Deployment's conditions say; None while it may."""
    for condition in (obj.get("status") or {}).get("conditions") or ():
        if condition.get("reason") == "ProgressDeadlineExceeded":
            return condition.get("message") or "its progress deadline was exceeded"
    return None
