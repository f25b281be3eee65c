"""Gives pods of this node that should be meshed, and lack right rules, their rules in place.

Such pods started before the agent, or while another program had taken our entry out of the
conflist. A validator that waits in them then passes. One thread looks at one pod at a time: when
the agent starts, when a pod's status changes, and now and then. ADDs never wait for it, and as
both write the same rules, each in one transaction, it does not matter which is last.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import structlog

from cni_plugin.agent.decide import PassThrough, Redirected, decide
from cni_plugin.agent.metrics import RepairMetrics, RepairResult
from cni_plugin.agent.netconf import NetConf, PodArgs
from cni_plugin.dataplane.addresses import IPAddress
from cni_plugin.dataplane.backends import Backend
from cni_plugin.dataplane.errors import DataplaneError
from cni_plugin.dataplane.expected import Expected, key_of
from cni_plugin.dataplane.foreign_nat import Owner, nat_owner
from cni_plugin.pods.linkerd import is_linkerds, wants_api_server
from cni_plugin.pods.netns import AmbiguousNetnsError, NetnsNotFoundError, PodNetns
from cni_plugin.pods.source import NodePods, Pod, PodSourceError
from cni_plugin.pods.status import addresses, is_finished, is_held_back
from cni_plugin.repair.news import CHECK_SECONDS, EVICT_SECONDS, PATIENCE_SECONDS, Case, News
from cni_plugin.repair.report import Reporter
from cni_plugin.spec import CniError

TICK_SECONDS = 0.25
"""How often it is seen whether a pod has changed: a look at memory, without any request."""

ROUND_SECONDS = 0.5
"""Of the processor, in one round: a pod's author chooses how much its rules are to compare."""

_log = structlog.get_logger("cni_plugin.repair.repair")


class _CannotRepairError(Exception):
    """The pod cannot be repaired now; the text is for an operator."""

    def __init__(self, result: RepairResult, text: str) -> None:
        super().__init__(text)
        self.result: RepairResult = result


@dataclass(frozen=True, slots=True)
class Tools:
    """What the repair works with."""

    pods: NodePods
    backend: Backend
    netns: PodNetns
    netconf: NetConf
    """The plugin's entry, as an ADD has it."""
    expected: Expected
    reporter: Reporter
    metrics: RepairMetrics
    evict: bool = False
    """Whether what cannot be repaired is evicted."""


class Repair:
    """`run` is for one thread."""

    def __init__(self, tools: Tools, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock`` gives seconds."""
        self._tools = tools
        self._clock = clock
        self._cases: dict[str, Case] = {}
        self._unmeshed: dict[str, Pod] = {}
        self._claims: Counter[IPAddress] = Counter()
        self._news = News(tools.reporter, clock, evict=tools.evict)

    def run(self, stop: threading.Event) -> None:
        """Repair until ``stop`` is set."""
        if self._tools.netconf.linkerd.simulate:
            _log.info("nothing is repaired, as the plugin's entry says simulate")
            stop.wait()
        while not stop.wait(TICK_SECONDS):
            self.look(stop.is_set)

    def look(self, stopped: Callable[[], bool] = lambda: False) -> None:
        """One round: every pod that is due, those that are held back first, and then the news."""
        known = [pod for pod in self._tools.pods.known() if not is_finished(pod)]
        self._take_stock(known)
        now = self._clock()
        due = [case for case in self._cases.values() if case.due <= now]
        if due:
            self._claims = Counter(address for pod in known for address in addresses(pod))
        begun = time.thread_time()
        for case in sorted(due, key=lambda case: not is_held_back(case.pod)):
            if stopped():
                return
            if time.thread_time() - begun > ROUND_SECONDS:
                break  # The others are due in the next round; ADDs come first meanwhile.
            self._visit(case)
        troubled = [case for case in self._cases.values() if case.problem]
        self._tools.metrics.awaiting(len(troubled))
        self._news.tell(troubled)

    def _take_stock(self, known: Sequence[Pod]) -> None:
        """Forget pods that are gone; what is new or has changed is due now."""
        cases: dict[str, Case] = {}
        unmeshed: dict[str, Pod] = {}
        for pod in known:
            key = _id(pod)
            case = self._cases.get(key)
            if case is not None and case.pod is pod:
                cases[key] = case
            elif self._unmeshed.get(key) is pod or not self._may_be_meshed(pod):
                unmeshed[key] = pod
            else:
                cases[key] = case or Case(pod, 0.0)
                cases[key].pod, cases[key].due = pod, self._clock()
        self._cases, self._unmeshed = cases, unmeshed

    def _may_be_meshed(self, pod: Pod) -> bool:
        """Without asking anybody; one with an unusable annotation should be, too."""
        if not addresses(pod):
            return False
        try:
            return isinstance(self._decision(pod, ()), Redirected)
        except Exception:  # noqa: BLE001 - a visit will tell of it, without stopping the others
            return True

    def _decision(self, pod: Pod, ports: Sequence[int]) -> Redirected | PassThrough:
        """What an ADD would come to, with the annotations that the runtime hands it."""
        netconf = _with_annotations(self._tools.netconf, pod)
        decision = decide(netconf, _args(pod), pod, ports)
        if isinstance(decision, Redirected | PassThrough):
            return decision
        raise AssertionError("unreachable: with the pod's object there is a decision")

    def _visit(self, case: Case) -> None:
        started = time.perf_counter()
        try:
            result = self._mend(case.pod)
        except _CannotRepairError as error:
            self._failed(case, error.result, str(error))
        except NetnsNotFoundError as error:
            ambiguous = isinstance(error, AmbiguousNetnsError)
            self._failed(case, "ambiguous" if ambiguous else "not-found", str(error))
        except DataplaneError as error:
            self._failed(case, "failed", str(error))
        except Exception as error:  # noqa: BLE001 - a bug met by one pod must not stop the others
            _log.exception("unexpected error", pod=str(case.pod))
            self._failed(case, "failed", f"unexpected error ({type(error).__name__}); see the log")
        else:
            self._settled(case, result, time.perf_counter() - started)
        self._tools.metrics.visited(time.perf_counter() - started)

    def _failed(self, case: Case, result: RepairResult, text: str) -> None:
        now = self._clock()
        if not case.problem:
            case.since, case.evict_due = now, now + EVICT_SECONDS
        if case.result != result:
            self._tools.metrics.repaired(result)
        if case.problem != text:
            log = _log.warning if now - case.since >= PATIENCE_SECONDS else _log.info
            log("pod not repaired yet", pod=str(case.pod), result=result, problem=text)
        case.problem, case.result = text, result
        case.due = now + case.backoff.next()

    def _settled(self, case: Case, result: RepairResult | None, seconds: float) -> None:
        if result is not None and case.result != result:
            self._tools.metrics.repaired(result)
            _log.warning(
                "pod repaired in place" if result == "repaired" else "rules left as they are",
                pod=str(case.pod),
                heldBack=is_held_back(case.pod),
                ms=round(seconds * 1000, 2),
            )
        case.problem, case.result = "", result if result == "left-alone" else None
        case.backoff.reset()
        case.due = self._clock() + CHECK_SECONDS * random.uniform(0.75, 1.25)  # noqa: S311

    def _mend(self, pod: Pod) -> RepairResult | None:
        """Set the pod's rules if they are not right; None where they are.

        Raises:
            _CannotRepairError, NetnsNotFoundError, DataplaneError: why it could not be done.
        """
        tools = self._tools
        if not tools.netns.knows(pod):
            self._refuse_shared_address(pod)
        wanted = self._wanted(pod)
        if wanted is None:
            return None
        with tools.netns.opened(pod) as fd:
            if tools.backend.difference(fd, wanted.redirect) is None:
                tools.expected.put(fd, wanted.redirect)
                return None
        with tools.netns.opened(pod, fresh=True) as fd:
            return self._set(pod, fd, wanted)

    def _set(self, pod: Pod, fd: int, wanted: Redirected) -> RepairResult | None:
        tools, redirect = self._tools, wanted.redirect
        inhabitant = tools.expected.inhabitant_of(key_of(fd))
        if inhabitant is not None and inhabitant != _id(pod):
            raise _CannotRepairError(
                "ambiguous", "the network namespace with the pod's address is another pod's"
            )
        before = tools.expected.get(key_of(fd))
        if (
            inhabitant is None
            and before is not None
            and before != redirect
            and not is_linkerds(pod)
        ):
            raise _CannotRepairError(
                "ambiguous",
                "the network namespace with the pod's address was given other rules before, so it "
                "may be another pod's",
            )
        if not is_held_back(pod):
            owner = nat_owner(fd, tools.backend.name)
            # What Linkerd's pods get depends on the namespace and the conflist too. A change there
            # is for pods that start; it must not turn the traffic of one that runs.
            if owner is Owner.OTHERS or (owner is Owner.OURS and is_linkerds(pod)):
                return "left-alone"
        tools.backend.apply(fd, redirect)
        difference = tools.backend.difference(fd, redirect)
        if difference is not None:
            raise _CannotRepairError(
                "failed",
                f"the rules were set, and right afterwards they differ: {difference}; something "
                "else in this pod changes them",
            )
        tools.expected.put(fd, redirect)
        return "repaired"

    def _refuse_shared_address(self, pod: Pod) -> None:
        shared = sorted(str(each) for each in addresses(pod) if self._claims[each] > 1)
        if shared:
            raise _CannotRepairError(
                "ambiguous",
                f"more than one pod of this node has the address {', '.join(shared)} by its "
                "status, so it is not known whose network namespace it is",
            )

    def _wanted(self, pod: Pod) -> Redirected | None:
        """The rules that an ADD would set now; None where it would set none.

        Raises:
            _CannotRepairError: the API server does not tell, or the annotation is unusable.
        """
        pods = self._tools.pods
        try:
            found: Pod | None = pod
            if is_linkerds(pod):  # its namespace's annotations may count
                found = pods.get(pod.metadata.namespace or "default", pod.metadata.name, _id(pod))
            if found is None:
                return None
            ports = pods.api_server_ports() if wants_api_server(found) else ()
            decision = self._decision(found, ports)
        except PodSourceError as error:
            raise _CannotRepairError("unknown", str(error)) from error
        except CniError as error:
            raise _CannotRepairError("failed", error.msg) from error
        return decision if isinstance(decision, Redirected) else None


def _id(pod: Pod) -> str:
    return pod.metadata.uid or str(pod)


def _args(pod: Pod) -> PodArgs:
    meta = pod.metadata
    return PodArgs(namespace=meta.namespace or "default", name=meta.name, uid=meta.uid)


def _with_annotations(netconf: NetConf, pod: Pod) -> NetConf:
    return msgspec.structs.replace(netconf, annotations=pod.annotations)
