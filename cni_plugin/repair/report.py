"""Tells the cluster about pods that cannot be repaired: an Event on the pod, and an eviction.

Best effort: the API server may be away, and its answer is only logged and counted. Sources:
policy/v1 Eviction ("API-initiated Eviction"); the reason is the one of Linkerd's
repair controller.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import Enum
from typing import Any, Protocol

import structlog

from cni_plugin.agent.metrics import RepairMetrics
from cni_plugin.pods.api_thread import ApiThread
from cni_plugin.pods.source import Pod
from kubeapi import events
from kubeapi.client import ApiServerError, is_name
from kubeapi.events import About, event_object

REASON = "LinkerdCNINotConfigured"
CONTROLLER = "linkerd-cni-repair-controller"
ASK_SECONDS = 5.0

_log = structlog.get_logger("cni_plugin.repair.repair")


class Eviction(Enum):
    """What came of asking for an eviction."""

    DONE = "done"
    """The pod is on its way out, or was already."""
    LATER = "later"
    """A PodDisruptionBudget does not allow it now, or the API server is busy or away."""
    REFUSED = "refused"
    """It will not be allowed later either, such as for want of a right."""


class Reporter(Protocol):
    """Where news about a pod goes; neither raises."""

    def event(self, pod: Pod, action: str, note: str) -> bool:
        """Put an Event on the pod; whether it was taken."""

    def evict(self, pod: Pod) -> tuple[Eviction, float]:
        """Ask for its eviction; and for how many seconds the API server asked us to wait."""


class LoggedReporter:
    """Where there is no API server: the log has it all already."""

    def event(self, pod: Pod, action: str, note: str) -> bool:  # noqa: ARG002
        """Nothing more than the log."""
        return True

    def evict(self, pod: Pod) -> tuple[Eviction, float]:  # noqa: ARG002
        """Nobody could."""
        return Eviction.REFUSED, 0.0


class ClusterReporter:
    """A `Reporter` that is an API server."""

    def __init__(self, api: ApiThread, metrics: RepairMetrics, instance: str) -> None:
        """``instance`` is this agent's pod, for the Events."""
        self._api = api
        self._metrics = metrics
        self._by = events.Reporter(CONTROLLER, instance)

    def event(self, pod: Pod, action: str, note: str) -> bool:
        """Put an Event on the pod; whether the API server took it."""
        namespace = pod.metadata.namespace or "default"
        path = f"api/v1/namespaces/{namespace}/events"
        about = About(
            api_version="v1",
            kind="Pod",
            namespace=namespace,
            name=pod.metadata.name,
            uid=pod.metadata.uid,
        )
        body = event_object(
            about,
            self._by,
            datetime.now(UTC),
            kind="Warning",
            reason=REASON,
            action=action,
            message=note,
        )
        error = self._post(pod, path, body)
        self._metrics.event("failed" if error else "sent")
        if error is not None:
            _log.warning("event not sent", pod=str(pod), error=str(error))
        return error is None

    def evict(self, pod: Pod) -> tuple[Eviction, float]:
        """Ask for the eviction of this very pod (by its uid); PodDisruptionBudgets hold."""
        meta = pod.metadata
        path = f"api/v1/namespaces/{meta.namespace or 'default'}/pods/{meta.name}/eviction"
        error = self._post(pod, path, eviction_of(pod))
        if error is None:
            self._metrics.eviction("evicted")
            _log.warning("pod evicted, as it could not be repaired", pod=str(pod))
            return Eviction.DONE, 0.0
        if error.status in (404, 409):  # it is gone, or another pod has its name by now
            self._metrics.eviction("gone")
            return Eviction.DONE, 0.0
        self._metrics.eviction("blocked" if error.status == 429 else "failed")
        _log.warning("pod not evicted", pod=str(pod), error=str(error))
        return Eviction.LATER if error.is_passing else Eviction.REFUSED, error.retry_after

    def _post(self, pod: Pod, path: str, body: dict[str, Any]) -> ApiServerError | None:
        """Post; the error where it failed."""
        names = (pod.metadata.namespace or "default", pod.metadata.name)
        if not all(map(is_name, names)):
            return ApiServerError(f"{'/'.join(names)!r} cannot be a pod's name")
        try:
            self._api.ask(self._api.api.post(path, body), ASK_SECONDS)
        except ApiServerError as error:
            return error
        return None


def eviction_of(pod: Pod) -> dict[str, Any]:
    """The Eviction (policy/v1), which holds for this pod and not for a later one of its name."""
    meta = pod.metadata
    return {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": meta.name, "namespace": meta.namespace or "default"},
        "deleteOptions": {"preconditions": {"uid": meta.uid}},
    }
