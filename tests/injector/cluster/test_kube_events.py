"""Events reach the owner, few and late if need be, and never get into a review's way."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from injector.cluster import kube_events
from injector.cluster.events import wanted_events
from injector.cluster.kube_events import BURST, QUEUE, KubeEvents, Pace
from injector.cluster.metrics import ClusterMetrics
from injector.core.model import Event, Outcome, Owner
from injector.core.skips import SkipReason
from injector.service.review import Review, decode
from kubeapi.client import ApiServer
from kubeapi.config import load_config
from tests.injector.support import inject, meshed, pod
from tests.kubeapi.fake_apiserver import Asked, FakeApiServer, Fault, running, until

INJECTED = Event("Injected", "Linkerd sidecar proxy injected")
WEB = Owner("deployment", "web", "apps/v1", "d", api_kind="Deployment")
REVIEW = decode(
    b'{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u",'
    b'"namespace":"shop","kind":{"kind":"Pod"},"object":{"metadata":{"generateName":"web-"}}}}'
)


@dataclass
class Setup:
    server: FakeApiServer
    events: KubeEvents
    registry: CollectorRegistry

    def counted(self, result: str) -> float:
        found = self.registry.get_sample_value("proxy_inject_events_total", {"result": result})
        return found or 0.0

    def send(self, owner: Owner = WEB, review: Review = REVIEW) -> None:
        self.events.send(review.namespace, owner, [INJECTED])

    def send_many(self, number: int) -> None:
        for one in range(number):
            self.send(Owner("deployment", f"web-{one}", "apps/v1", f"uid-{one}"))


async def there(namespace: str, owner: Owner) -> bool:
    return namespace != "kube-system" and owner.name != "made-up"


@contextlib.asynccontextmanager
async def setup(folder: Path, *faults: Fault, sending: bool = True) -> AsyncIterator[Setup]:
    async with asyncio.timeout(20), running(faults=list(faults)) as server:
        api, registry = ApiServer(load_config(server.kubeconfig(folder))), CollectorRegistry()
        events = KubeEvents(api, ClusterMetrics(registry), instance="replica-1", is_there=there)
        task = asyncio.create_task(events.run()) if sending else None
        yield Setup(server, events, registry)
        if task:
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled(), task.exception()
        await api.close()


def posts(asked: Asked) -> bool:
    return asked.method == "POST"


def test_an_event_is_on_the_owner_as_linkerds_component(tmp_path: Path) -> None:
    async def test() -> None:
        async with setup(tmp_path) as given:
            given.send()
            await until(lambda: given.counted("sent"))
            [event] = given.server.events
            assert given.server.asked[0].path == "/api/v1/namespaces/shop/events"
            assert event["metadata"]["namespace"] == "shop"
            assert event["metadata"]["name"].startswith("web.")
            assert event["involvedObject"] == {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "name": "web",
                "namespace": "shop",
                "uid": "d",
            }
            assert (event["reason"], event["type"], event["count"]) == ("Injected", "Normal", 1)
            assert event["message"] == "Linkerd sidecar proxy injected"
            assert event["source"] == {"component": "linkerd-proxy-injector"}
            assert event["reportingInstance"] == "replica-1"

    asyncio.run(test())


def test_a_name_is_never_too_long(tmp_path: Path) -> None:
    async def test() -> None:
        async with setup(tmp_path) as given:
            given.send(Owner("deployment", "w" * 236 + "." + "w" * 16, "apps/v1", "d"))
            await until(lambda: given.counted("sent"))
            name = given.server.events[0]["metadata"]["name"]
            assert 200 < len(name) <= 253
            assert ".." not in name

    asyncio.run(test())


def test_the_same_event_for_the_same_owner_is_sent_once(tmp_path: Path) -> None:
    async def test() -> None:
        async with setup(tmp_path) as given:
            for _ in range(100):
                given.send()
            given.send(Owner("deployment", "web", "apps/v1", "made anew"))
            given.events.send(REVIEW.namespace, WEB, [Event("InjectionSkipped", "why")])
            await until(lambda: given.counted("sent") == 3)
            assert given.counted("repeated") == 99
            assert len(given.server.events) == 3

    asyncio.run(test())


def test_a_pod_without_an_owner_has_nothing_to_put_an_event_on(tmp_path: Path) -> None:
    async def test() -> None:
        async with setup(tmp_path) as given:
            given.send(Owner("pod", "web"))
            given.send()
            await until(lambda: given.counted("sent"))
            assert len(given.server.events) == 1

    asyncio.run(test())


def test_events_that_are_too_many_are_dropped_and_counted_at_once(tmp_path: Path) -> None:
    async def test() -> None:
        async with setup(tmp_path, sending=False) as given:
            begun = time.monotonic()
            given.send_many(QUEUE + 50)
            assert time.monotonic() - begun < 1
            assert given.counted("dropped") == 50
            given.send_many(QUEUE + 50)
            assert given.counted("dropped") == 100, "one that was dropped may be sent later"

    asyncio.run(test())


def test_a_burst_is_sent_at_once_and_then_a_trickle(tmp_path: Path) -> None:
    async def test() -> None:
        async with setup(tmp_path) as given:
            begun = time.monotonic()
            given.send_many(BURST + 3)
            await until(lambda: given.counted("sent") == BURST)
            assert time.monotonic() - begun < 0.5
            await until(lambda: given.counted("sent") == BURST + 3)
            assert time.monotonic() - begun > 0.5

    asyncio.run(test())


def test_the_pace_is_kept_over_time() -> None:
    pace = Pace(2, 10.0)
    waits = [pace.wait() for _ in range(5)]
    assert waits[:2] == [0, 0]
    assert waits[2:] == pytest.approx([0.1, 0.2, 0.3], abs=0.05)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(posts, status=429, retry_after="1"),
        Fault(posts, status=503),
        Fault(posts, status=0),
    ],
)
def test_a_passing_fault_is_waited_out(tmp_path: Path, fault: Fault) -> None:
    async def test() -> None:
        async with setup(tmp_path, fault) as given:
            given.send()
            await until(lambda: given.counted("sent"))
            assert given.server.count(posts) == 2

    asyncio.run(test())


def test_what_is_refused_is_counted_and_the_next_is_sent(tmp_path: Path) -> None:
    async def test() -> None:
        async with setup(tmp_path, Fault(posts, status=403)) as given:
            given.send_many(2)
            await until(lambda: given.counted("sent") == 1)
            assert given.counted("failed") == 1
            assert given.server.count(posts) == 2

    asyncio.run(test())


def test_an_api_server_that_stays_away_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kube_events, "_ATTEMPTS", 1)

    async def test() -> None:
        async with setup(tmp_path) as given:
            await given.server.stop()
            given.send_many(3)
            await until(lambda: given.counted("failed") == 3)
            await given.server.start()
            given.send(WEB)
            await until(lambda: given.counted("sent"))

    asyncio.run(test())


@pytest.mark.parametrize(
    ("outcome", "reasons"),
    [
        (inject(pod()), ["Injected"]),
        (inject(pod({"linkerd.io/inject": "disabled"})), ["InjectionSkipped"]),
        (inject(pod(hostNetwork=True)), ["InjectionSkipped"]),
        (inject(pod({"linkerd.io/inject": "yes"})), ["InjectionSkipped"]),
        (inject(pod(), meshed(**{"linkerd.io/inject": "yes"})), ["InjectionSkipped"]),
        (inject(pod(), meshed(**{"linkerd.io/inject": "disabled"})), []),
        (inject(pod(hostNetwork=True), meshed(**{"linkerd.io/inject": ""})), []),
    ],
)
def test_nobody_hears_of_a_mesh_that_nobody_asked_for(outcome: Outcome, reasons: list[str]) -> None:
    assert [event.reason for event in wanted_events(outcome)] == reasons
    assert bool(reasons) == (SkipReason.ENABLE_ABSENT not in outcome.reasons)


def test_an_owner_that_somebody_made_up_gets_none(tmp_path: Path) -> None:
    async def test() -> None:
        async with setup(tmp_path) as given:
            given.send(Owner("statefulset", "made-up", "apps/v1", "no-uid"))
            given.send()
            await until(lambda: given.counted("sent"))
            assert given.counted("unknown") == 1
            assert [event["involvedObject"]["name"] for event in given.server.events] == [WEB.name]

    asyncio.run(test())
