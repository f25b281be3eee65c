"""Tells the cluster about pods that cannot be repaired: when, how often, and whom it evicts.

One Event for each pod and problem, a few requests in each round, and quiet after a failure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cni_plugin.agent.metrics import RepairResult
from cni_plugin.pods.source import Pod
from cni_plugin.pods.status import has_controller, is_held_back
from cni_plugin.repair.report import Eviction, Reporter
from process.backoff import Backoff

CHECK_SECONDS = 60.0
"""After about this long the rules of a pod that has not changed are compared again."""
PATIENCE_SECONDS = 10.0
"""What cannot be repaired for this long is reported to the cluster."""
EVICT_SECONDS = 60.0
"""A pod that could not be repaired for this long is evicted, where that is asked for."""
_IN_DOUBT: frozenset[RepairResult] = frozenset(("ambiguous", "not-found", "unknown"))
"""What leaves it open whether the pod's rules are right."""
_REPORTS = 5
"""Requests to the API server in one round, between which no pod is repaired."""


@dataclass(slots=True)
class Case:
    """One pod that should be meshed, and what is known of its rules."""

    pod: Pod
    due: float
    """When it is looked at next; on the clock that was handed in."""
    problem: str = ""
    result: RepairResult | None = None
    """What came of it last, where its rules were not right."""
    since: float = 0.0
    """Since when there is a problem."""
    backoff: Backoff = field(default_factory=lambda: Backoff(first=1.0, longest=CHECK_SECONDS))
    told: set[RepairResult] = field(default_factory=set)
    """Of which problems there was an Event."""
    evict_due: float = 0.0
    evictions: Backoff = field(default_factory=lambda: Backoff(first=5.0, longest=300.0))
    is_over: bool = False
    """It was evicted, or never can be."""


class News:
    """For one thread."""

    def __init__(self, reporter: Reporter, clock: Callable[[], float], *, evict: bool) -> None:
        """``clock`` gives seconds; ``evict`` is whether anything is evicted at all."""
        self._reporter = reporter
        self._clock = clock
        self._evicts = evict
        self._quiet_until = 0.0
        """No request is made before, as the last one failed."""

    def tell(self, troubled: Sequence[Case]) -> None:
        """Tell the cluster, a little at a time. One failure ends it: the others would fail too."""
        asked = 0
        for case in troubled:
            if asked >= _REPORTS or self._clock() < self._quiet_until:
                return
            if self._is_to_be_evicted(case):
                asked += 1
                self._evict(case)
            elif self._is_news(case):
                asked += 1
                if not self._event(case):
                    self._quiet_until = self._clock() + PATIENCE_SECONDS

    def _is_news(self, case: Case) -> bool:
        late = self._clock() - case.since >= PATIENCE_SECONDS
        return late and case.result is not None and case.result not in case.told

    def _event(self, case: Case) -> bool:
        note = f"This pod's traffic rules could not be set: {case.problem}. {self._outlook(case)}"
        taken = self._reporter.event(case.pod, "Repairing", note)
        if taken and case.result is not None:
            case.told.add(case.result)
        return taken

    def _outlook(self, case: Case) -> str:
        if not is_held_back(case.pod):
            if case.result in _IN_DOUBT:
                return (
                    "Whether it is meshed is not known, and nothing was done to it; if in doubt, "
                    "deleting it starts it again, meshed"
                )
            return "It runs unmeshed; deleting it starts it again, meshed"
        if self._is_evictable(case):
            return "It is tried again, and the pod evicted if that does not help"
        return "It is tried again; deleting the pod starts it again"

    def _is_to_be_evicted(self, case: Case) -> bool:
        """A pod that never started, and that something makes anew. What runs unmeshed is reported
        about only: it serves, and who owns it chooses the moment. Nor would another pod help where
        the API server does not tell what the rules should be; and a doubt, which a neighbour can
        raise by giving itself the pod's address, is never a reason."""
        return (
            self._is_evictable(case)
            and not case.is_over
            and self._clock() >= case.evict_due
            and is_held_back(case.pod)
        )

    def _is_evictable(self, case: Case) -> bool:
        return (
            self._evicts
            and case.result not in ("unknown", "ambiguous")
            and has_controller(case.pod)
        )

    def _evict(self, case: Case) -> None:
        answer, wait = self._reporter.evict(case.pod)
        case.is_over = answer is not Eviction.LATER
        case.evict_due = self._clock() + case.evictions.next(wait)
