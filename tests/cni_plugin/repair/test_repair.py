"""Pods that should be meshed get their rules in place; what cannot be repaired is told, once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from cni_plugin.agent.metrics import RepairMetrics
from cni_plugin.agent.netconf import DEFAULT_EXCLUDED_NAMESPACES, LinkerdConf, NetConf
from cni_plugin.dataplane.backends import Backend
from cni_plugin.dataplane.errors import NftError
from cni_plugin.dataplane.expected import Expected
from cni_plugin.dataplane.foreign_nat import Owner, nat_owner
from cni_plugin.dataplane.legacy import LegacyBackend
from cni_plugin.dataplane.nft import NftBackend
from cni_plugin.pods.netns import PodNetns
from cni_plugin.pods.source import KnownPods, Pod, PodSourceError
from cni_plugin.repair.news import CHECK_SECONDS, EVICT_SECONDS, PATIENCE_SECONDS
from cni_plugin.repair.repair import Repair, Tools
from cni_plugin.repair.report import Eviction
from meshgraft.lab.netns import Netns
from tests.cni_plugin.redirects import ports
from tests.cni_plugin.repair_support import (
    CONTROLLED,
    FAILED,
    PASSED,
    REDIRECT,
    Folder,
    pod,
)
from vocabulary.annotations.redirect import Redirect

pytestmark = pytest.mark.root

IP, IP6 = "10.79.0.5", "fd79::5"
NAT_HOOK = "{ type nat hook prerouting priority -100; }"
LINKERDS = {
    "annotations": {"linkerd.io/proxy-version": "stable"},
    "spec": {
        "containers": [{"name": "linkerd-proxy"}],
        "initContainers": [{"name": "linkerd-network-validator"}],
    },
}


@dataclass
class Pods(KnownPods):
    """Whatever a test says; also what the namespace's annotations would come to."""

    now: list[Pod] = field(default_factory=list)
    answer: Pod | PodSourceError | None = None
    asked: int = 0

    def known(self) -> Sequence[Pod]:
        return tuple(self.now)

    def get(self, namespace: str, name: str, uid: str) -> Pod | None:  # noqa: ARG002
        self.asked += 1
        if isinstance(self.answer, PodSourceError):
            raise self.answer
        return self.answer or next((each for each in self.now if each.has_uid(uid)), None)


@dataclass
class News:
    """A `Reporter` that remembers."""

    events: list[tuple[str, str]] = field(default_factory=list)
    evicted: list[str] = field(default_factory=list)
    takes: bool = True
    answers: list[tuple[Eviction, float]] = field(default_factory=list)

    def event(self, pod: Pod, action: str, note: str) -> bool:  # noqa: ARG002
        if self.takes:
            self.events.append((pod.metadata.name, note))
        return self.takes

    def evict(self, pod: Pod) -> tuple[Eviction, float]:
        self.evicted.append(pod.metadata.name)
        return self.answers.pop(0) if self.answers else (Eviction.DONE, 0.0)


class Setup:
    """The repair of an empty node, on a clock that tests turn."""

    def __init__(self, folder: Folder, backend: Backend, **tools: Any) -> None:
        self.folder = folder
        self.backend = backend
        self.pods = Pods()
        self.news = News()
        self.expected = Expected()
        self.registry = CollectorRegistry()
        self.now = 1000.0
        given: dict[str, Any] = {
            "pods": self.pods,
            "backend": backend,
            "netns": PodNetns(folder.path, clock=self.clock, home_of=self.expected.home_of),
            "netconf": NetConf(cni_version="1.0.0"),
            "expected": self.expected,
            "reporter": self.news,
            "metrics": RepairMetrics(self.registry),
            **tools,
        }
        self.repair = Repair(Tools(**given), self.clock)

    def clock(self) -> float:
        return self.now

    def look(self, *pods: Pod, later: float = 0.0) -> None:
        """One round with these pods on the node, so many seconds later."""
        self.now += later
        self.pods.now = list(pods)
        self.repair.look()

    def count(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"linkerd_cni_{name}", labels) or 0.0

    def has_rules(self, netns: Netns, redirect: Redirect = REDIRECT) -> bool:
        return self.backend.difference(netns.fd, redirect) is None


Make = Callable[..., Setup]


@pytest.fixture
def make(folder: Folder) -> Make:
    def make(backend: Backend | None = None, **tools: Any) -> Setup:
        return Setup(folder, backend or NftBackend(), **tools)

    return make


@pytest.fixture
def setup(make: Make) -> Setup:
    return make()


# What is repaired


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"state": FAILED},
        {"state": {"waiting": {}}, "last": FAILED},
        {"ownerReferences": CONTROLLED},
        {"state": PASSED, "status": {"phase": "Running"}},
        {"spec": {"initContainers": None}},
        LINKERDS,
    ],
    ids=["running", "failed", "crash-loop", "controlled", "started", "no-validator", "linkerds"],
)
def test_a_meshed_pod_without_rules_gets_them(setup: Setup, given: dict[str, Any]) -> None:
    netns = setup.folder.network(f"{IP}/24", f"{IP6}/64")
    other = setup.folder.network("10.79.0.6/24")
    with capture_logs() as logs:
        setup.look(pod(IP, IP6, **given))
    wanted = REDIRECT
    if given is LINKERDS:
        wanted = Redirect(inbound_port=4143, outbound_port=4140, proxy_uid=2102)
    assert setup.has_rules(netns, wanted)
    assert not setup.has_rules(other, wanted)
    assert setup.count("repairs_total", result="repaired") == 1
    assert setup.count("pods_awaiting_repair") == 0
    assert [log["event"] for log in logs] == ["pod repaired in place"]
    assert setup.news.events == []


def test_wrong_rules_become_right(setup: Setup) -> None:
    netns = setup.folder.network(f"{IP}/24")
    setup.backend.apply(netns.fd, Redirect(inbound_port=1, outbound_port=2))
    setup.look(pod(IP))
    assert setup.has_rules(netns)


def test_by_the_legacy_backend_too(make: Make) -> None:
    backend = LegacyBackend()
    try:
        setup = make(backend)
        netns = setup.folder.network(f"{IP}/24")
        setup.look(pod(IP))
        assert setup.has_rules(netns)
        assert nat_owner(netns.fd, "legacy") is Owner.OURS
    finally:
        backend.close()


@pytest.mark.parametrize(
    "given",
    [
        {"annotations": {}},
        {"annotations": {"linkerd.io/created-by": "meshgraft/injector 1"}},
        {"spec": {"hostNetwork": True}},
        {"status": {"phase": "Succeeded"}},
        {"status": {"phase": "Failed"}},
        {"deletionTimestamp": "2026-01-01T00:00:00Z"},
        {"namespace": DEFAULT_EXCLUDED_NAMESPACES[0]},
        {
            "annotations": {"linkerd.io/proxy-version": "stable"},
            "spec": {
                "containers": [{"name": "linkerd-proxy"}],
                "initContainers": [{"name": "linkerd-init"}],
            },
        },
    ],
    ids=[
        *("unmeshed", "init-container", "host-network", "succeeded", "failed", "deleted"),
        *("excluded", "linkerd-init"),
    ],
)
def test_what_no_add_would_touch_is_not_touched(setup: Setup, given: dict[str, Any]) -> None:
    netns = setup.folder.network(f"{IP}/24")
    setup.look(pod(IP, **given))
    assert nat_owner(netns.fd, "nft") is Owner.NOBODY
    assert setup.count("repair_duration_seconds_count") == 0


def test_right_rules_are_left_as_they_are_and_looked_at_now_and_then(setup: Setup) -> None:
    netns = setup.folder.network(f"{IP}/24")
    setup.backend.apply(netns.fd, REDIRECT)
    web = pod(IP)
    setup.look(web)
    setup.look(web, later=1)
    assert setup.count("repair_duration_seconds_count") == 1
    setup.backend.remove(netns.fd)
    setup.look(web, later=CHECK_SECONDS * 1.3)
    assert setup.has_rules(netns)
    assert setup.count("repairs_total", result="repaired") == 1
    setup.backend.remove(netns.fd)
    setup.look(pod(IP, state=PASSED), later=0.1)  # its status changed
    assert setup.has_rules(netns)


def test_others_nat_rules_in_a_pod_that_runs_are_left_alone(setup: Setup) -> None:
    """As of Linkerd's plugin, from before ours came; a second set would not help."""
    netns = setup.folder.network(f"{IP}/24")
    netns.run("nft", "add table ip nat; add chain ip nat PREROUTING " + NAT_HOOK)
    setup.look(pod(IP, state=PASSED))
    assert nat_owner(netns.fd, "nft") is Owner.OTHERS
    assert setup.count("repairs_total", result="left-alone") == 1
    setup.look(pod(IP, state=FAILED))  # but one that they do not let start is repaired
    assert setup.has_rules(netns)


def test_legacy_rules_are_others_for_nft(setup: Setup) -> None:
    netns = setup.folder.network(f"{IP}/24")
    backend = LegacyBackend()
    try:
        backend.apply(netns.fd, REDIRECT)
    finally:
        backend.close()
    setup.look(pod(IP, state=PASSED))
    assert nat_owner(netns.fd, "nft") is Owner.OTHERS


def test_a_change_of_the_namespace_is_not_for_linkerds_pods_that_run(setup: Setup) -> None:
    netns = setup.folder.network(f"{IP}/24")
    first = Redirect(inbound_port=4143, outbound_port=4140, skip_inbound_ports=ports(80))
    setup.backend.apply(netns.fd, first)
    setup.look(pod(IP, state=PASSED, **_linkerds(state=PASSED)))
    assert setup.backend.difference(netns.fd, first) is None


def _linkerds(state: dict[str, Any]) -> dict[str, Any]:
    name = "linkerd-network-validator"
    status = {"initContainerStatuses": [{"name": name, "state": state}]}
    return {**LINKERDS, "status": status}


# What is not certain is not touched


def untouched(setup: Setup, netns: Netns, result: str) -> str:
    """The problem, of which nobody was told yet."""
    assert nat_owner(netns.fd, "nft") is Owner.NOBODY
    assert setup.count("repairs_total", result=result) == 1
    assert setup.count("pods_awaiting_repair") >= 1
    (case, *_) = setup.repair._cases.values()
    return case.problem


def test_a_pod_whose_namespace_is_not_there_waits(setup: Setup) -> None:
    other = setup.folder.network("10.79.0.6/24")
    setup.look(pod(IP))
    assert "none of 1 network namespaces" in untouched(setup, other, "not-found")
    netns = setup.folder.network(f"{IP}/24")
    setup.look(*setup.pods.now, later=2)
    assert setup.has_rules(netns)
    assert setup.count("pods_awaiting_repair") == 0


def test_two_pods_that_claim_one_address_are_both_left_alone(setup: Setup) -> None:
    """An unmeshed one counts too: it may be the one that has the address by now."""
    netns = setup.folder.network(f"{IP}/24")
    setup.look(pod(IP), pod(IP, name="plain", annotations={}))
    assert "more than one pod of this node has the address" in untouched(setup, netns, "ambiguous")


def test_a_namespace_that_an_add_gave_other_rules_is_another_pods(setup: Setup) -> None:
    netns = setup.folder.network(f"{IP}/24")
    setup.expected.put(netns.fd, Redirect(inbound_port=1, outbound_port=2))
    setup.look(pod(IP))
    assert "was given other rules before" in untouched(setup, netns, "ambiguous")


@pytest.mark.parametrize("text", ['{"version":99}', '{"x":' + "[" * 50_000 + "]" * 50_000 + "}"])
def test_an_annotation_that_is_not_usable_is_told(setup: Setup, text: str) -> None:
    netns = setup.folder.network(f"{IP}/24")
    setup.look(pod(IP, annotations={"meshgraft.io/redirect": text}))
    assert "meshgraft.io/redirect" in untouched(setup, netns, "failed")


def test_while_the_api_server_does_not_tell_a_pod_waits(setup: Setup) -> None:
    netns = setup.folder.network(f"{IP}/24")
    setup.pods.answer = PodSourceError("the API server is away")
    setup.look(pod(IP, **_linkerds(FAILED)))
    assert untouched(setup, netns, "unknown") == "the API server is away"
    setup.pods.answer = None
    setup.look(*setup.pods.now, later=2)
    assert (
        setup.backend.difference(
            netns.fd, Redirect(inbound_port=4143, outbound_port=4140, proxy_uid=2102)
        )
        is None
    )


def test_rules_that_the_kernel_refuses_are_told(make: Make) -> None:
    class Refusing(NftBackend):
        def apply(self, netns_fd: int, redirect: Redirect) -> bool:  # noqa: ARG002
            raise NftError("the kernel is against it")

    setup = make(Refusing())
    netns = setup.folder.network(f"{IP}/24")
    setup.look(pod(IP))
    assert untouched(setup, netns, "failed") == "the kernel is against it"


def test_rules_that_something_takes_away_at_once_are_told(make: Make) -> None:
    class Undone(NftBackend):
        def apply(self, netns_fd: int, redirect: Redirect) -> bool:  # noqa: ARG002
            return True

    setup = make(Undone())
    netns = setup.folder.network(f"{IP}/24")
    setup.look(pod(IP))
    assert "something else in this pod changes them" in untouched(setup, netns, "failed")


def test_a_pod_that_meets_a_bug_does_not_keep_the_others_from_being_repaired(make: Make) -> None:
    class Stumbling(NftBackend):
        def difference(self, netns_fd: int, redirect: Redirect) -> str | None:
            if redirect != REDIRECT:
                raise KeyError("a bug")
            return super().difference(netns_fd, redirect)

    setup = make(Stumbling())
    other = Redirect(inbound_port=1, outbound_port=2).to_annotation()
    setup.folder.network("10.79.0.6/24")
    netns = setup.folder.network(f"{IP}/24")
    setup.look(
        pod("10.79.0.6", name="a-bug", annotations={"meshgraft.io/redirect": other}),
        pod(IP, name="web-1"),
    )
    assert setup.has_rules(netns)
    assert setup.count("pods_awaiting_repair") == 1


# What cannot be repaired


def test_there_is_one_event_for_a_problem_and_not_at_once(setup: Setup) -> None:
    web = pod(IP)
    setup.look(web)
    assert setup.news.events == []
    for _ in range(20):
        setup.look(web, later=PATIENCE_SECONDS)
    ((name, note),) = setup.news.events
    assert name == "web-0"
    assert "none of 0 network namespaces" in note
    assert "deleting the pod starts it again" in note
    assert setup.count("repairs_total", result="not-found") == 1


def test_an_event_that_could_not_be_sent_is_sent_later_and_is_no_flood(setup: Setup) -> None:
    setup.news.takes = False
    pods = [pod(f"10.79.1.{number}", name=f"web-{number}") for number in range(30)]
    setup.look(*pods)
    setup.look(*pods, later=PATIENCE_SECONDS)
    setup.news.takes = True
    setup.look(*pods, later=1)
    assert setup.news.events == []  # quiet after a failure
    setup.look(*pods, later=PATIENCE_SECONDS)
    assert len(setup.news.events) == 5  # a few in each round
    for _ in range(10):
        setup.look(*pods, later=1)
    assert len(setup.news.events) == 30


@pytest.mark.parametrize(
    ("evict", "given", "evicted"),
    [
        (True, {"ownerReferences": CONTROLLED}, True),
        (False, {"ownerReferences": CONTROLLED}, False),
        (True, {}, False),  # nobody would make it anew
        (True, {"ownerReferences": CONTROLLED, "state": PASSED}, False),  # it serves
    ],
    ids=["held-back", "not-asked-for", "bare", "runs"],
)
def test_only_a_pod_that_waits_and_is_made_anew_is_evicted(
    make: Make, evict: bool, given: dict[str, Any], evicted: bool
) -> None:
    setup = make(evict=evict)
    web = pod(IP, **given)
    setup.look(web)
    setup.look(web, later=EVICT_SECONDS - 1)
    assert setup.news.evicted == []
    for _ in range(5):
        setup.look(web, later=EVICT_SECONDS)
    assert setup.news.evicted == (["web-0"] if evicted else [])
    assert len(setup.news.events) == 1


def test_no_pod_is_evicted_because_the_api_server_does_not_tell(make: Make) -> None:
    setup = make(evict=True)
    setup.pods.answer = PodSourceError("not allowed to get namespaces")
    web = pod(IP, ownerReferences=CONTROLLED, **_linkerds(FAILED))
    for _ in range(5):
        setup.look(web, later=EVICT_SECONDS)
    assert setup.news.evicted == []
    assert len(setup.news.events) == 1


def test_a_neighbours_addresses_do_not_keep_a_pod_from_its_rules(setup: Setup) -> None:
    """Its ADD said which namespace is its own, whoever has its address by now."""
    netns, thief = setup.folder.network(f"{IP}/24"), setup.folder.network(f"{IP}/24")
    web = pod(IP, uid="web")
    setup.expected.live_in("web", netns.fd)
    setup.look(web, pod(IP, name="thief", uid="thief", annotations={}))
    assert setup.has_rules(netns)
    assert not setup.has_rules(thief)
    assert setup.count("pods_awaiting_repair") == 0


def test_a_namespace_that_an_add_named_for_another_pod_is_not_touched(setup: Setup) -> None:
    netns = setup.folder.network(f"{IP}/24")
    setup.expected.live_in("another", netns.fd)
    setup.look(pod(IP, uid="web"))
    assert "is another pod's" in untouched(setup, netns, "ambiguous")


def test_no_pod_is_evicted_on_doubt_nor_called_unmeshed(make: Make) -> None:
    setup = make(evict=True)
    setup.folder.network(f"{IP}/24")
    setup.folder.network(f"{IP}/24")
    waits = pod(IP, ownerReferences=CONTROLLED)
    runs = pod("10.79.0.99", name="runs", ownerReferences=CONTROLLED, state=PASSED)
    for _ in range(5):
        setup.look(waits, runs, later=EVICT_SECONDS)
    assert setup.news.evicted == []
    notes = dict(setup.news.events)
    assert "Whether it is meshed is not known" in notes["runs"]
    assert "the pod evicted" not in notes["web-0"]


def test_an_eviction_does_not_wait_for_an_event_that_cannot_be_sent(make: Make) -> None:
    setup = make(evict=True)
    setup.news.takes = False
    web = pod(IP, ownerReferences=CONTROLLED)
    for _ in range(10):
        setup.look(web, later=EVICT_SECONDS / 4)
    assert setup.news.evicted == ["web-0"]


def test_a_disruption_budget_is_asked_again_with_growing_pauses(make: Make) -> None:
    setup = make(evict=True)
    setup.news.answers = [(Eviction.LATER, 10.0)] * 4
    web = pod(IP, ownerReferences=CONTROLLED)
    setup.look(web)
    times: list[float] = []
    for _ in range(300):
        before = len(setup.news.evicted)
        setup.look(web, later=1)
        times += [setup.now] * (len(setup.news.evicted) - before)
    assert len(times) == 5
    assert all(later - sooner >= 10 for sooner, later in pairwise(times))


def test_a_pod_that_is_gone_is_forgotten(setup: Setup) -> None:
    setup.look(pod(IP))
    assert setup.count("pods_awaiting_repair") == 1
    setup.look()
    assert setup.count("pods_awaiting_repair") == 0
    assert setup.repair._cases == {}


# Beside ADDs


def test_an_add_at_the_same_moment_ends_with_the_same_right_rules(setup: Setup) -> None:
    netns = setup.folder.network(f"{IP}/24")
    stop = threading.Event()

    def disturb() -> None:
        while not stop.is_set():
            setup.backend.remove(netns.fd)
            setup.backend.apply(netns.fd, REDIRECT)

    with ThreadPoolExecutor(2) as pool:
        adds = [pool.submit(disturb) for _ in range(2)]
        try:
            for number in range(30):
                setup.look(pod(IP, labels={"n": str(number)}), later=61)
        finally:
            stop.set()
        for add in adds:
            add.result(30)
    setup.look(pod(IP), later=61)
    assert setup.has_rules(netns)


def test_it_runs_until_it_is_stopped(setup: Setup) -> None:
    netns = setup.folder.network(f"{IP}/24")
    setup.pods.now = [pod(IP)]
    stop = threading.Event()
    thread = threading.Thread(target=setup.repair.run, args=(stop,))
    thread.start()
    try:
        deadline = time.monotonic() + 20
        while not setup.has_rules(netns):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        stop.set()
        thread.join(10)
    assert not thread.is_alive()


def test_simulate_repairs_nothing(make: Make) -> None:
    netconf = NetConf(cni_version="1.0.0", linkerd=LinkerdConf(simulate=True))
    setup = make(netconf=netconf)
    netns = setup.folder.network(f"{IP}/24")
    setup.pods.now = [pod(IP)]
    stop = threading.Event()
    stop.set()
    setup.repair.run(stop)
    assert nat_owner(netns.fd, "nft") is Owner.NOBODY


def test_a_node_full_of_pods_costs_little_while_nothing_happens(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    pods = [
        pod(f"10.80.{number // 250}.{number % 250}", name=f"p{number}", annotations={})
        for number in range(250)
    ]
    setup.look(*pods)
    decided: list[object] = []
    decision = setup.repair._decision

    def noted(each: Pod, ports: Sequence[int]) -> object:
        decided.append(each)
        return decision(each, ports)

    monkeypatch.setattr(setup.repair, "_decision", noted)
    setup.look(*pods)
    assert decided == []
    changed = msgspec.structs.replace(pods[0])
    setup.look(changed, *pods[1:])
    assert decided == [changed]
