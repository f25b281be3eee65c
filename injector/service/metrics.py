"""The webhook's Prometheus metrics, with Linkerd's names where the meaning is Linkerd's.

Labels are bounded. Owner kinds and reasons come from fixed lists; the namespace is a label, as
in Linkerd, because "which namespace is skipped, and why" is what dashboards ask, but only the
first `MAX_NAMESPACES` get a series of their own: namespaces come and go (one for each pull
request, say), and a process's memory must not grow with all that ever were. Linkerd's label for
each annotation's value is left out: those are free text.
"""

from __future__ import annotations

import platform
from datetime import datetime
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder

from injector.core.model import Outcome, Owner
from injector.service.connection_limit import ConnectionLimit, Stage

MAX_NAMESPACES = 500
OTHER = "_other"
"""Not a valid name of a namespace, so never mistaken for one."""

ErrorCause = Literal[
    "bad_request", "too_large", "timeout", "busy", "namespace_unknown", "cluster", "internal"
]

Reloaded = Literal["settings", "certificate"]

_OWNER_KINDS = frozenset(
    {
        *("pod", "service", "replicationcontroller", "replicaset", "deployment", "rollout"),
        *("statefulset", "daemonset", "job", "cronjob"),
    }
)
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""Seconds, from one millisecond to the time-out that webhook configurations usually have."""


class Metrics:
    """All metrics of one webhook process, on a registry of their own."""

    def __init__(self, version: str) -> None:
        """Register everything; ``version`` goes into the build info."""
        self.registry = CollectorRegistry()
        self._namespaces: set[str] = set()
        asked = ("owner_kind", "namespace", "annotation_at")
        self._requests = Counter(
            "proxy_inject_admission_requests",
            "Reviews that were decided, by the kind of the workload and where inject was asked.",
            asked,
            registry=self.registry,
        )
        self._responses = Counter(
            "proxy_inject_admission_responses",
            "Answers that admit an object: injected (skip=false), or not and for which reasons.",
            (*asked, "skip", "skip_reason"),
            registry=self.registry,
        )
        self._errors = Counter(
            "proxy_inject_admission_errors",
            "Reviews answered with an HTTP error, by cause; failurePolicy decided about those.",
            ("cause",),
            registry=self.registry,
        )
        self._warnings = Counter(
            "proxy_inject_admission_warnings",
            "Warnings sent back to users about values that were not usable.",
            registry=self.registry,
        )
        self._seconds = Histogram(
            "proxy_inject_admission_duration_seconds",
            "Time from a request's headers to its answer, errors included.",
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._expiry = Gauge(
            "proxy_inject_certificate_expiry_timestamp_seconds",
            "When the serving certificate expires, as Unix time.",
            registry=self.registry,
        )
        self._reloads = Counter(
            "proxy_inject_reloads",
            "Files that changed: taken up (ok), or not usable, so that the old ones stay (failed).",
            ("what", "result"),
            registry=self.registry,
        )
        self._reload_failing = Gauge(
            "proxy_inject_reload_failing",
            "1 while the files on disk are not usable, so that older ones are in force.",
            ("what",),
            registry=self.registry,
        )
        self._connections = Gauge(
            "proxy_inject_connections",
            "Connections to the webhook's port that are open, by what they are at.",
            ("stage",),
            registry=self.registry,
        )
        self._connections_ended = Counter(
            "proxy_inject_connections_ended",
            "Connections that were ended for another client's (evicted), got no place (refused), "
            "or did not get through the TLS handshake (handshake).",
            ("reason",),
            registry=self.registry,
        )
        for reason in ("evicted", "refused", "handshake"):
            self._connections_ended.labels(reason)
        build = Gauge(
            "meshgraft_build_info",
            "Always 1; the labels say what runs.",
            ("version", "python"),
            registry=self.registry,
        )
        build.labels(version, platform.python_version()).set(1)
        ProcessCollector(registry=self.registry)

    def answered(self, namespace: str, owner: Owner, outcome: Outcome) -> None:
        """Count a review that was decided."""
        kind = owner.kind if owner.kind in _OWNER_KINDS else OTHER
        asked = (kind, self._bounded(namespace), outcome.annotation_at)
        reasons = ",".join(outcome.reasons)
        self._requests.labels(*asked).inc()
        self._responses.labels(*asked, "false" if outcome.injected else "true", reasons).inc()
        self._warnings.inc(len(outcome.warnings))

    def failed(self, cause: ErrorCause) -> None:
        """Count a review that was answered with an HTTP error."""
        self._errors.labels(cause).inc()

    def took(self, seconds: float) -> None:
        """Observe the duration of a review."""
        self._seconds.observe(seconds)

    def certificate_expires(self, at: datetime) -> None:
        """Tell when the serving certificate in use expires."""
        self._expiry.set(at.timestamp())

    def reload_ok(self, what: Reloaded, *, changed: bool) -> None:
        """The files are usable; count them where they brought something new."""
        self._reload_failing.labels(what).set(0)
        if changed:
            self._reloads.labels(what, "ok").inc()

    def reload_failed(self, what: Reloaded) -> None:
        """The files are not usable."""
        self._reload_failing.labels(what).set(1)
        self._reloads.labels(what, "failed").inc()

    def watch_connections(self, limit: ConnectionLimit) -> None:
        """Show at each scrape how many connections are open."""
        for stage in Stage:
            gauge = self._connections.labels(stage.name.lower())
            gauge.set_function(lambda stage=stage: limit.counts()[stage])  # type: ignore[misc]

    def connection_ended(self, reason: str) -> None:
        """Count a connection that was not to be: ``evicted``, ``refused`` or ``handshake``."""
        self._connections_ended.labels(reason).inc()

    def render(self, accept: str) -> tuple[bytes, str]:
        """The exposition and its content type, in the format that the scraper accepts."""
        encoder, content_type = choose_encoder(accept)
        return encoder(self.registry), content_type

    def _bounded(self, namespace: str) -> str:
        if namespace in self._namespaces:
            return namespace
        if len(self._namespaces) >= MAX_NAMESPACES:
            return OTHER
        self._namespaces.add(namespace)
        return namespace
