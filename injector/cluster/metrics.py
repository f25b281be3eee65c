"""Metrics about the connection to the API server: is memory fresh, do look-ups and Events work."""

from __future__ import annotations

from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge

LookupResult = Literal["cached", "fetched", "missing", "failed"]
EventResult = Literal["sent", "repeated", "dropped", "unknown", "failed"]


class ClusterMetrics:
    """Everything that is counted about the API server; on the process's registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register the metrics."""
        self._namespaces = Gauge(
            "proxy_inject_namespaces",
            "Namespaces held in memory.",
            registry=registry,
        )
        self._contact = Gauge(
            "proxy_inject_namespaces_last_contact_timestamp_seconds",
            "When the API server last reported namespaces (a bookmark counts), as Unix time.",
            registry=registry,
        )
        self._watch_failures = Counter(
            "proxy_inject_namespaces_watch_failures",
            "Lists and watches of namespaces that failed, by cause; each is tried again.",
            ("cause",),
            registry=registry,
        )
        self._lookups = Counter(
            "proxy_inject_lookups",
            "Owners and new namespaces asked for while a review waited, by result.",
            ("kind", "result"),
            registry=registry,
        )
        self._events = Counter(
            "proxy_inject_events",
            "Kubernetes Events: sent; left out as repeated; dropped (too many); failed.",
            ("result",),
            registry=registry,
        )

    def in_touch(self, known: int) -> None:
        """The API server has just reported namespaces, of which ``known`` are held."""
        self._namespaces.set(known)
        self._contact.set_to_current_time()

    def watch_failed(self, cause: str) -> None:
        """A list or watch failed; ``cause`` is one of a few words."""
        self._watch_failures.labels(cause).inc()

    def looked_up(self, kind: Literal["owner", "namespace"], result: LookupResult) -> None:
        """A look-up ended."""
        self._lookups.labels(kind, result).inc()

    def event(self, result: EventResult) -> None:
        """An Event was sent, or was not."""
        self._events.labels(result).inc()
