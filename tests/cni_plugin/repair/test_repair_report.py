"""Events about pods that cannot be repaired, and their eviction, at an API server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from prometheus_client import CollectorRegistry

from cni_plugin.agent.metrics import RepairMetrics
from cni_plugin.pods.api_thread import ApiThread
from cni_plugin.repair.report import ClusterReporter, Eviction
from kubeapi.client import ApiServer
from kubeapi.config import load_config
from tests.cni_plugin.repair_support import pod
from tests.kubeapi.fake_apiserver import FakeApiServer, Fault, running

WEB = pod("10.0.0.5")


@dataclass
class Setup:
    server: FakeApiServer
    reporter: ClusterReporter
    registry: CollectorRegistry

    def count(self, name: str, result: str) -> float | None:
        return self.registry.get_sample_value(f"linkerd_cni_{name}_total", {"result": result})

    async def evict(self) -> tuple[Eviction, float]:
        return await asyncio.to_thread(self.reporter.evict, WEB)


@pytest.fixture
def run(tmp_path: Path) -> Callable[[Callable[[Setup], Coroutine[Any, Any, None]]], None]:
    def run(test: Callable[[Setup], Coroutine[Any, Any, None]]) -> None:
        async def within() -> None:
            async with asyncio.timeout(20), running() as server:
                api = ApiThread(ApiServer(load_config(server.kubeconfig(tmp_path))))
                registry = CollectorRegistry()
                reporter = ClusterReporter(api, RepairMetrics(registry), "linkerd-cni-x")
                api.start()
                try:
                    await test(Setup(server, reporter, registry))
                finally:
                    await asyncio.to_thread(api.stop)

        asyncio.run(within())

    return run


Run = Callable[[Callable[[Setup], Coroutine[Any, Any, None]]], None]


def test_an_event_is_valid_and_on_the_pod(run: Run) -> None:
    async def test(setup: Setup) -> None:
        note = "é" * 2000
        assert await asyncio.to_thread(setup.reporter.event, WEB, "Repairing", note)
        (event,) = setup.server.events
        kubernetes_validate.validate(event, "1.33", strict=True)
        assert event["reason"] == "LinkerdCNINotConfigured"
        assert event["involvedObject"]["uid"] == "uid-web-0"
        assert event["metadata"]["namespace"] == "shop"
        assert len(event["message"].encode()) <= 1024
        assert setup.count("repair_events", "sent") == 1

    run(test)


def test_an_event_that_is_refused_is_counted(run: Run) -> None:
    async def test(setup: Setup) -> None:
        setup.server.faults.append(Fault(lambda _: True, status=403))
        assert not await asyncio.to_thread(setup.reporter.event, WEB, "Repairing", "note")
        assert setup.count("repair_events", "failed") == 1

    run(test)


def test_an_eviction_holds_for_this_very_pod(run: Run) -> None:
    async def test(setup: Setup) -> None:
        assert await setup.evict() == (Eviction.DONE, 0.0)
        (asked,) = setup.server.asked
        assert (asked.method, asked.path) == (
            "POST",
            "/api/v1/namespaces/shop/pods/web-0/eviction",
        )
        body = json.loads(asked.body)
        assert (body["apiVersion"], body["kind"]) == ("policy/v1", "Eviction")
        assert body["metadata"] == {"name": "web-0", "namespace": "shop"}
        assert body["deleteOptions"] == {"preconditions": {"uid": "uid-web-0"}}
        assert setup.count("evictions", "evicted") == 1

    run(test)


@pytest.mark.parametrize(
    ("status", "answer", "result"),
    [
        (404, Eviction.DONE, "gone"),
        (409, Eviction.DONE, "gone"),
        (429, Eviction.LATER, "blocked"),
        (500, Eviction.LATER, "failed"),
        (0, Eviction.LATER, "failed"),
        (403, Eviction.REFUSED, "failed"),
    ],
)
def test_what_an_answer_means(run: Run, status: int, answer: Eviction, result: str) -> None:
    async def test(setup: Setup) -> None:
        setup.server.faults.append(
            Fault(lambda _: True, status=status, retry_after="7" if status == 429 else "")
        )
        assert await setup.evict() == (answer, 7.0 if status == 429 else 0.0)
        assert setup.count("evictions", result) == 1

    run(test)


def test_a_name_that_would_lead_elsewhere_is_not_asked_for(run: Run) -> None:
    async def test(setup: Setup) -> None:
        odd = pod("10.0.0.5", name="../../secrets")
        assert not await asyncio.to_thread(setup.reporter.event, odd, "Repairing", "note")
        assert setup.server.asked == []

    run(test)
