"""What the agent counts, under names and labels that are bounded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder

_COMMANDS = frozenset({"ADD", "CHECK", "STATUS"})
_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


RepairResult = Literal["repaired", "left-alone", "not-found", "ambiguous", "unknown", "failed"]
LookupResult = Literal["memory", "fetched", "missing", "failed"]


class Measured(Protocol):
    """What is counted about an answered request."""

    @property
    def command(self) -> str:
        """``CNI_COMMAND``, as it came."""

    @property
    def result(self) -> str:
        """What was done, from a small fixed set of words."""

    @property
    def rules_seconds(self) -> float | None:
        """Time that the backend took, None where it was not asked."""


class Metrics:
    """Counters and histograms of one agent, in a registry of its own. All labels are bounded."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "linkerd_cni_requests",
            "Calls of the CNI plugin that were answered.",
            ["command", "result"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "linkerd_cni_request_duration_seconds",
            "Time from accepting a call of the CNI plugin to its answer.",
            ["command"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._rules_seconds = Histogram(
            "linkerd_cni_rules_duration_seconds",
            "Time spent on a pod's traffic rules alone.",
            ["backend", "command"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._lookups = Counter(
            "linkerd_cni_pod_lookups",
            "Pods that did not bring their redirection along, by where they were found.",
            ["result"],
            registry=self.registry,
        )
        self._pods = Gauge(
            "linkerd_cni_pods",
            "Pods of this node held in memory, by the watch.",
            registry=self.registry,
        )
        self._contact = Gauge(
            "linkerd_cni_pods_last_contact_timestamp_seconds",
            "When the API server last reported this node's pods, as Unix time; 0: never.",
            registry=self.registry,
        )
        self._watch_failures = Counter(
            "linkerd_cni_pods_watch_failures",
            "Lists and watches of this node's pods that failed, by cause; each is tried again.",
            ["cause"],
            registry=self.registry,
        )
        self._refused = Counter(
            "linkerd_cni_connections_refused",
            "Connections that brought no request that could be answered.",
            registry=self.registry,
        )

    def show_calls(self, in_flight: Callable[[], int], waiting: Callable[[], int | None]) -> None:
        """Show at each scrape how many calls are being answered, and how many wait for a thread.

        ``waiting`` is None where the kernel does not tell; then there is no such metric.
        """
        Gauge(
            "linkerd_cni_requests_in_flight",
            "Calls that are being answered now.",
            registry=self.registry,
        ).set_function(in_flight)
        if waiting() is not None:
            Gauge(
                "linkerd_cni_requests_waiting",
                "Calls in the socket's backlog, which no thread has taken yet.",
                registry=self.registry,
            ).set_function(lambda: waiting() or 0)

    def answered(self, answer: Measured, backend: str, seconds: float) -> None:
        """Count one answered request; ``seconds`` is its whole time."""
        command = answer.command if answer.command in _COMMANDS else "other"
        self._requests.labels(command, answer.result).inc()
        self._seconds.labels(command).observe(seconds)
        if answer.rules_seconds is not None:
            self._rules_seconds.labels(backend, command).observe(answer.rules_seconds)

    def in_touch(self, known: int) -> None:
        """The API server has just reported this node's pods, of which ``known`` are held."""
        self._pods.set(known)
        self._contact.set_to_current_time()

    def watch_failed(self, cause: str) -> None:
        """A list or watch of this node's pods failed; ``cause`` is one of a few words."""
        self._watch_failures.labels(cause).inc()

    def looked_up(self, result: LookupResult) -> None:
        """A pod that did not bring its redirection along was looked up."""
        self._lookups.labels(result).inc()

    def refused(self) -> None:
        """Count a connection that was closed without an answer."""
        self._refused.inc()

    def expose(self, accept: str) -> tuple[bytes, str]:
        """The metrics as text, in the format that the ``Accept`` header asks for, and its type."""
        encoder, content_type = choose_encoder(accept)
        return encoder(self.registry), content_type


class InstallMetrics:
    """What the installer finds and does; there is none of it without an installer."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._ready = Gauge(
            "linkerd_cni_install_ready",
            "1 while the program is in place and our entry is in the active configuration.",
            registry=registry,
        )
        self._problems = Gauge(
            "linkerd_cni_install_problems",
            "What was in the way of the installation at the last look; the log says what.",
            registry=registry,
        )
        self._changes = Counter(
            "linkerd_cni_install_changes",
            "Changes made to the node's CNI files, the program among them.",
            registry=registry,
        )

    def looked(self, ready: bool, changes: int, problems: int) -> None:
        """The installer has looked at the node's folders, and done what was missing."""
        self._ready.set(ready)
        self._problems.set(problems)
        self._changes.inc(changes)


class TaintMetrics:
    """What became of the node's startup taint; there is none of it where none is removed."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._taints = Counter(
            "linkerd_cni_startup_taint",
            "Attempts to remove the startup taint from this node, by result.",
            ["result"],
            registry=registry,
        )
        for result in ("removed", "failed"):
            self._taints.labels(result)

    def untainted(self, result: Literal["removed", "failed"]) -> None:
        """The taint was removed, or could not be."""
        self._taints.labels(result).inc()


class RepairMetrics:
    """What the repair of pods without right rules comes to; there is none of it without repair."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._repairs = Counter(
            "linkerd_cni_repairs",
            "Pods that were found without right rules, by what came of it.",
            ["result"],
            registry=registry,
        )
        self._seconds = Histogram(
            "linkerd_cni_repair_duration_seconds",
            "Time to find a pod's network namespace and to look at its rules and set them.",
            buckets=_BUCKETS,
            registry=registry,
        )
        self._awaiting = Gauge(
            "linkerd_cni_pods_awaiting_repair",
            "Pods of this node that should be meshed, and could not be repaired yet.",
            registry=registry,
        )
        self._events = Counter(
            "linkerd_cni_repair_events",
            "Events about pods that cannot be repaired, by result.",
            ["result"],
            registry=registry,
        )
        self._evictions = Counter(
            "linkerd_cni_evictions",
            "Evictions of pods that cannot be repaired, by result.",
            ["result"],
            registry=registry,
        )

    def repaired(self, result: RepairResult) -> None:
        """A pod without right rules was dealt with; once for each pod and result."""
        self._repairs.labels(result).inc()

    def visited(self, seconds: float) -> None:
        """A pod was looked at, with or without anything to do."""
        self._seconds.observe(seconds)

    def awaiting(self, pods: int) -> None:
        """So many pods could not be repaired yet."""
        self._awaiting.set(pods)

    def event(self, result: Literal["sent", "failed"]) -> None:
        """An Event was sent, or could not be."""
        self._events.labels(result).inc()

    def eviction(self, result: Literal["evicted", "blocked", "gone", "failed"]) -> None:
        """An eviction was asked for; ``blocked`` is by a PodDisruptionBudget, for now."""
        self._evictions.labels(result).inc()
