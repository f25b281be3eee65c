"""What is installed, as the flags that install it again: a hint that is followed to the letter must
not turn a cluster into another."""

from __future__ import annotations

from collections.abc import Iterator

from injector.core.model import Object
from kubeapi.client import ApiServerError
from meshgraft.audit.model import labels_of
from meshgraft.checks.model import Ref, Skip, Snapshot
from meshgraft.checks.parts import WEBHOOK, config_map, deployment, settings

_HA_REPLICAS = 3
_COMMAND = "meshgraft install |"
_HELM = "app.kubernetes.io/managed-by"


def as_installed(fix: str, snapshot: Snapshot) -> str:
    """The hint with the flags that are in force; with Helm's command where Helm installed it."""
    if _COMMAND not in fix:
        return fix
    if labels_of(_found(snapshot, deployment(snapshot.options)) or {}).get(_HELM) == "Helm":
        namespace = snapshot.options.mesh_namespace
        return (
            f"Install the injector again: helm -n {namespace} upgrade RELEASE CHART --reuse-values"
        )
    flags = "".join(f" {flag}" for flag in _flags(snapshot))
    return fix.replace(_COMMAND, f"meshgraft install{flags} |")


def _found(snapshot: Snapshot, ref: Ref) -> Object | None:
    found = snapshot.objects.get(ref)
    return None if isinstance(found, ApiServerError) else found


def _flags(snapshot: Snapshot) -> Iterator[str]:
    spec = (_found(snapshot, deployment(snapshot.options)) or {}).get("spec") or {}
    hooks: list[Object] = (_found(snapshot, WEBHOOK) or {}).get("webhooks") or [{}]
    replicas, policy = spec.get("replicas", 1), hooks[0].get("failurePolicy", "Ignore")
    if replicas == _HA_REPLICAS and policy == "Fail":
        yield "--ha"
    else:
        if replicas != 1:
            yield f"--controller-replicas {replicas}"
        if policy != "Ignore":
            yield f"--webhook-failure-policy {policy}"
    if config_map(snapshot.options) not in snapshot.objects:
        return
    try:
        values = settings(snapshot)
    except (ApiServerError, Skip):
        return
    if values.meshgraft.mesh.enabled:
        yield "--mesh"
    elif values.cni_enabled:
        yield "--linkerd-cni-enabled"
    if values.meshgraft.profile != "envoy":
        yield f"--profile {values.meshgraft.profile}"
    if values.linkerd_namespace != "linkerd":
        yield f"--linkerd-namespace {values.linkerd_namespace}"
