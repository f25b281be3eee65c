"""What a meshed pod's status says: whether what was injected lets it start, and if not, why."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from injector.core.marks import all_marks
from injector.core.model import Object
from meshgraft.audit.model import Reason, moment
from vocabulary.annotations.parse import shortened

_PATIENCE = timedelta(minutes=1)
"""Longer than any pod waits for its network where all is well."""
_PASSING = frozenset(("PodInitializing", "ContainerCreating", ""))


def stuck(pod: Object, now: datetime | None) -> tuple[Reason, ...]:
    """Why the pod does not start, as far as that is the mesh's doing; empty where it does.

    ``now`` None: how long it has waited is not asked.
    """
    status = pod.get("status") or {}
    statuses = [
        *(status.get("initContainerStatuses") or ()),
        *(status.get("containerStatuses") or ()),
    ]
    node = (pod.get("spec") or {}).get("nodeName") or "its node"
    found = [reason for each in statuses for reason in _of_container(each, node)]
    return tuple(found or _of_network(status, node, now))


def _of_container(status: Object, node: str) -> Iterator[Reason]:
    name = status.get("name")
    marks = all_marks()
    if name not in marks.containers - marks.conveniences:
        return
    state = status.get("state") or {}
    waiting = state.get("waiting") or {}
    ended = state.get("terminated") or {}
    if waiting.get("reason") in _PASSING and not ended.get("exitCode"):
        return
    if not waiting and not ended.get("exitCode"):
        return
    last = ended or (status.get("lastState") or {}).get("terminated") or {}
    why = waiting.get("reason") or ended.get("reason") or "Error"
    said = last.get("message") or waiting.get("message") or ""
    text = f'held back by "{name}" ({why})'
    lines = [line for line in said.strip().splitlines() if line.strip()]
    if lines:
        text += f": {shortened(lines[-1].strip())}"
    if name in marks.proxies or "Image" in why:
        yield Reason(
            "proxy-does-not-start", text, f"Read kubectl logs POD -c {name}, and kubectl describe."
        )
    else:
        yield Reason("held-back", text, _look_at(node))


def _of_network(status: Object, node: str, now: datetime | None) -> Iterator[Reason]:
    conditions = {each.get("type"): each for each in status.get("conditions") or ()}
    ready = conditions.get("PodReadyToStartContainers") or {}
    since = moment((conditions.get("PodScheduled") or {}).get("lastTransitionTime"))
    if status.get("phase") != "Pending" or ready.get("status") != "False":
        return
    if now is None or since is None or since.tzinfo is None or now - since < _PATIENCE:
        return
    seconds = int((now - since).total_seconds())
    text = f"without a network on node {node} for {seconds} s"
    yield Reason("no-network", text, _look_at(node))


def _look_at(node: str) -> str:
    return (
        f"See whether the agent runs on node {node} (kubectl get pods -A -o wide -l "
        "k8s-app=linkerd-cni), and what it says: linkerd-cni in the node's journal."
    )
