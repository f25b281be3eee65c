"""Sends Kubernetes Events about injections to the API server: best effort, and never in the way.

One for each workload and message in ten minutes, as Linkerd's component ``linkerd-proxy-injector``.
Source: client-go's EventRecorder, whose limits (a burst, then a trickle) these are.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog
from cachetools import TTLCache

from injector.cluster.metrics import ClusterMetrics
from injector.cluster.source import ClusterError
from injector.core.model import Event, Object, Owner
from kubeapi.client import ApiServer, ApiServerError
from kubeapi.events import About, Reporter, event_object
from process.backoff import Backoff

COMPONENT = "linkerd-proxy-injector"
QUEUE = 256
"""Events that wait; more are dropped, and counted."""
BURST = 25
PER_SECOND = 5.0
"""How many are sent: a burst at once, then so many a second."""
REMEMBERED = 4096
REPEAT_SECONDS = 600.0
"""The same event for the same workload is sent again only after this time."""
_ATTEMPTS = 2

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Queued:
    namespace: str
    owner: Owner
    event: Event


IsThere = Callable[[str, Owner], Awaitable[bool]]


class Pace:
    """A token bucket: so many at once, and then so many a second."""

    def __init__(self, burst: int, per_second: float) -> None:
        """Starts full."""
        self._burst = burst
        self._per_second = per_second
        self._tokens = float(burst)
        self._at = time.monotonic()

    def wait(self) -> float:
        """Take a token; answers the seconds to wait before it is there."""
        now = time.monotonic()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_second)
        self._at = now
        self._tokens -= 1
        return max(0.0, -self._tokens / self._per_second)


class KubeEvents:
    """An `EventSink` that ends at the API server. `run` does the sending."""

    def __init__(
        self, api: ApiServer, metrics: ClusterMetrics, *, instance: str, is_there: IsThere
    ) -> None:
        """``instance`` names this replica. ``is_there`` says whether there is such an owner:
        anybody who reaches the webhook may make one up."""
        self._api = api
        self._is_there = is_there
        self._metrics = metrics
        self._by = Reporter(COMPONENT, instance)
        self._queue: asyncio.Queue[_Queued] = asyncio.Queue(QUEUE)
        self._recent: TTLCache[tuple[str, Event], bool] = TTLCache(REMEMBERED, REPEAT_SECONDS)
        self._pace = Pace(BURST, PER_SECOND)
        self._failing = False

    def send(self, namespace: str, owner: Owner, events: Sequence[Event]) -> None:
        """Queue the events, unless they were sent lately or the queue is full.

        A pod without an owner gets none: it does not exist yet, so there is no uid by which
        ``kubectl describe`` would find the event. Linkerd sends none either.
        """
        if not owner.uid:
            return
        for event in events:
            self._enqueue(_Queued(namespace, owner, event))

    def _enqueue(self, queued: _Queued) -> None:
        key = (queued.owner.uid, queued.event)
        if key in self._recent:
            self._metrics.event("repeated")
            return
        try:
            self._queue.put_nowait(queued)
        except asyncio.QueueFull:
            self._metrics.event("dropped")
            return
        self._recent[key] = True

    async def run(self) -> None:
        """Send what is queued, for ever, at a bounded pace."""
        while True:
            queued = await self._queue.get()
            await asyncio.sleep(self._pace.wait())
            try:
                if not await self._is_there(queued.namespace, queued.owner):
                    self._metrics.event("unknown")
                    continue
                await self._post(queued)
            except (ApiServerError, ClusterError) as error:
                self._failed(queued, error)
            else:
                self._metrics.event("sent")
                self._failing = False

    async def _post(self, queued: _Queued) -> None:
        path = f"api/v1/namespaces/{queued.namespace}/events"
        body = _as_object(queued, self._by)
        backoff = Backoff(first=2.0)
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                await self._api.post(path, body)
                return
            except ApiServerError as error:
                if attempt == _ATTEMPTS or not error.is_passing:
                    raise
                await asyncio.sleep(backoff.next(error.retry_after))

    def _failed(self, queued: _Queued, error: Exception) -> None:
        self._metrics.event("failed")
        # One line for a row of failures: without the right to create events it would be endless.
        log = _log.debug if self._failing else _log.warning
        log(
            "event not sent",
            namespace=queued.namespace,
            ownerKind=queued.owner.kind,
            ownerName=queued.owner.name,
            error=str(error),
        )
        self._failing = True


def _as_object(queued: _Queued, by: Reporter) -> Object:
    owner, event = queued.owner, queued.event
    about = About(
        api_version=owner.api_version,
        kind=owner.api_kind or owner.kind,
        namespace=queued.namespace,
        name=owner.name,
        uid=owner.uid,
    )
    now = datetime.now(UTC)
    return event_object(about, by, now, kind="Normal", reason=event.reason, message=event.message)
