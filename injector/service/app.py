"""The admission webhook over HTTP: a review in, the core's decision out, and who is at fault.

An HTTP error means that the fault is ours or the sender's, and the cluster's ``failurePolicy``
decides; a decision always admits, because a user's bad value never denies a pod.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import structlog
from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, Response

from injector.cluster.events import EventSink, wanted_events
from injector.cluster.source import Cluster, ClusterError
from injector.core.model import Namespace, Object, Origin, Outcome, Owner, Profile
from injector.core.owners import resolve_owner
from injector.core.values import Values
from injector.service.body import BodyReader
from injector.service.metrics import ErrorCause, Metrics
from injector.service.review import (
    Answer,
    Review,
    ReviewError,
    bounded_warnings,
    decode,
    encode,
    shorten,
)
from injector.service.settings import Settings
from process.health import Health, kubernetes_routes, linkerd_routes
from vocabulary.annotations.parse import BadValue, parse_duration

_log = structlog.get_logger()

LOOKUP_SECONDS = 2.0
"""For finding out the namespace, and again for the owner; both are in memory mostly."""
_LOOKUP_SHARE = 0.4
"""Of the API server's own time-out: two look-ups leave a fifth for the rest."""

Mutate = Callable[[Object, Namespace, Owner, Values, Profile, Origin], Outcome]
Diff = Callable[[Object, Object], list[Object]]


class UnanswerableError(Exception):
    """Our side cannot decide; the text names the object and the cause, for HTTP status 500."""

    def __init__(self, review: Review, why: str, cause: ErrorCause) -> None:
        kind = review.kind.kind.lower()
        super().__init__(
            f"meshgraft cannot decide about {kind} {review.ref}: {why}; "
            "the webhook's failurePolicy decides"
        )
        self.cause = cause


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be answered, and for whom."""

    outcome: Outcome
    owner: Owner
    patch: list[Object]
    namespace: str = ""
    """The namespace's name where the cluster knows it: what a sender made up is no label."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Injector:
    """The pure core, and what the shell hands it for each review."""

    settings: Settings
    cluster: Cluster
    profiles: Callable[[str], Profile]
    mutate: Mutate
    diff: Diff
    origin: Origin

    async def decide(self, review: Review, lookup_seconds: float = LOOKUP_SECONDS) -> Decision:
        """The patch for the object under review; one look-up takes ``lookup_seconds`` at most.

        Raises:
            UnanswerableError: the namespace is not known, or the cluster cannot be asked.
            Exception: whatever the core raises; a defect of ours.
        """
        if review.operation != "CREATE" or review.subresource:
            # Only a pod that is being created can still get containers.
            return Decision(Outcome(review.object, injected=False), _self_owner(review), [])
        namespace = await self._namespace(review, lookup_seconds)
        owner = await self._owner(review, lookup_seconds)
        values = self.settings.current
        profile = self.profiles(values.meshgraft.profile)
        outcome = self.mutate(review.object, namespace, owner, values, profile, self.origin)
        patch = self.diff(review.object, outcome.patched)
        return Decision(outcome, owner, patch, namespace.name)

    async def _namespace(self, review: Review, seconds: float) -> Namespace:
        try:
            async with asyncio.timeout(seconds):
                namespace = await self.cluster.namespace(review.namespace)
        except (ClusterError, TimeoutError) as error:
            why = str(error) or f"the cluster did not answer within {seconds:g} s"
            raise UnanswerableError(review, why, "cluster") from error
        if namespace is None:
            why = f'namespace "{review.namespace}" is not known to the injector (yet)'
            raise UnanswerableError(review, why, "namespace_unknown")
        return namespace

    async def _owner(self, review: Review, seconds: float) -> Owner:
        """The workload. Where the cluster does not tell in time, the direct owner, as Linkerd.

        It names the pod's metrics and Events; whether the pod is meshed must not hang on that.
        """
        if (review.kind.group, review.kind.kind) != ("", "Pod"):
            return _self_owner(review)
        try:
            async with asyncio.timeout(seconds):
                return await self.cluster.owner(review.meta)
        except (ClusterError, TimeoutError) as error:
            owner = resolve_owner(review.meta, None)
            _log.warning(
                "owner not looked up; its direct owner stands in",
                **_fields(review),
                owner=f"{owner.kind}/{owner.name}",
                error=str(error) or f"no answer within {seconds:g} s",
            )
            return owner


def lookup_seconds(timeout: str) -> float:
    """What one look-up may take, by the time-out that the API server put into the URL.

    ``timeout`` is the query's value, as in ``?timeout=10s``; without one `LOOKUP_SECONDS` holds.
    """
    try:
        whole = parse_duration(timeout).nanoseconds / 10**9
    except BadValue:
        return LOOKUP_SECONDS
    return min(LOOKUP_SECONDS, whole * _LOOKUP_SHARE) if whole > 0 else LOOKUP_SECONDS


def _self_owner(review: Review) -> Owner:
    return Owner(kind=review.kind.kind.lower(), name=review.name)


def create_app(
    *,
    injector: Injector,
    metrics: Metrics,
    events: EventSink,
    health: Health,
    bodies: BodyReader | None = None,
) -> FastAPI:
    """The app of the TLS port: ``POST /`` (Linkerd's path) and ``/mutate``, and health."""
    app = _bare_app()
    endpoint = _Endpoint(injector, metrics, events, health, bodies or BodyReader())
    for path in ("/", "/mutate"):
        # A plain route: FastAPI's parameters and models would only stand in a raw body's way.
        app.router.add_route(path, endpoint.handle, methods=["POST"], include_in_schema=False)
    app.include_router(kubernetes_routes(health))
    return app


def create_metrics_app(*, metrics: Metrics, health: Health) -> FastAPI:
    """The app of the plain port: ``/metrics`` and health, Linkerd's paths included."""
    app = _bare_app()
    app.include_router(kubernetes_routes(health))
    app.include_router(linkerd_routes(health))

    @app.get("/metrics", include_in_schema=False)
    async def exposition(request: Request) -> Response:
        content, content_type = metrics.render(request.headers.get("accept", ""))
        return Response(content, headers={"content-type": content_type})

    return app


def _bare_app() -> FastAPI:
    return FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)


class _Endpoint:
    """Answers one HTTP request: the only place where errors become statuses."""

    def __init__(
        self,
        injector: Injector,
        metrics: Metrics,
        events: EventSink,
        health: Health,
        bodies: BodyReader,
    ) -> None:
        self._injector = injector
        self._metrics = metrics
        self._events = events
        self._health = health
        self._bodies = bodies

    async def handle(self, request: Request) -> Response:
        started = time.perf_counter()
        try:
            async with self._bodies.reading(request) as body:
                review = decode(body)
                seconds = lookup_seconds(request.query_params.get("timeout", ""))
                response = await self._answer(review, started, seconds)
        except ReviewError as error:
            response = self._refuse(error)
        self._metrics.took(time.perf_counter() - started)
        if self._health.draining:
            # So that the API server's next review takes a new connection, to another replica.
            response.headers["connection"] = "close"
        return response

    async def _answer(self, review: Review, started: float, seconds: float) -> Response:
        try:
            decision = await self._injector.decide(review, seconds)
            body = encode(review, _as_answer(decision))
        except UnanswerableError as error:
            return self._fail(review, error)
        except Exception as error:  # noqa: BLE001, whatever it is must not look like an answer
            return self._fail(review, _defect(review, error))
        self._metrics.answered(decision.namespace, decision.owner, decision.outcome)
        _log.info("review answered", **_fields(review), **_result(decision, started))
        events = () if review.dry_run else wanted_events(decision.outcome)
        if events:
            self._events.send(review.namespace, decision.owner, events)
        return Response(body, media_type="application/json")

    def _refuse(self, error: ReviewError) -> Response:
        self._metrics.failed(cast(ErrorCause, error.cause))
        _log.warning("review refused", status=error.status, error=str(error))
        # The rest of the body may still be under way: the connection is of no more use.
        headers = {"connection": "close"}
        return PlainTextResponse(f"{error}\n", status_code=error.status, headers=headers)

    def _fail(self, review: Review, error: UnanswerableError) -> Response:
        self._metrics.failed(error.cause)
        _log.error(
            "review failed",
            **_fields(review),
            cause=error.cause,
            error=str(error),
            exc_info=error.__cause__,
        )
        return PlainTextResponse(f"{error}\n", status_code=500)


def _defect(review: Review, error: Exception) -> UnanswerableError:
    why = shorten(f"internal error ({type(error).__name__}: {error})")
    failure = UnanswerableError(review, why, "internal")
    failure.__cause__ = error
    return failure


def _as_answer(decision: Decision) -> Answer:
    outcome = decision.outcome
    audit = {"result": "injected" if outcome.injected else "skipped"}
    if outcome.reasons:
        audit["reasons"] = ",".join(outcome.reasons)
    return Answer(patch=decision.patch, warnings=outcome.warnings, audit=audit)


def _fields(review: Review) -> dict[str, Any]:
    kind = review.kind.kind
    name = kind.lower() if kind in ("Pod", "Service") else "object"
    return {name: review.ref, "requestUid": review.uid, "dryRun": review.dry_run}


def _result(decision: Decision, started: float) -> dict[str, Any]:
    outcome = decision.outcome
    return {
        "owner": f"{decision.owner.kind}/{decision.owner.name}",
        "injected": outcome.injected,
        "reasons": [reason.value for reason in outcome.reasons],
        "warnings": bounded_warnings(outcome.warnings),
        "operations": len(decision.patch),
        "durationSeconds": round(time.perf_counter() - started, 6),
    }
