"""Pods from an API server: from memory, by a GET, and whatever the API server does meanwhile."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from cni_plugin.agent.metrics import Metrics
from cni_plugin.pods import cluster_pods
from cni_plugin.pods.api_thread import ApiThread
from cni_plugin.pods.cluster_pods import ClusterPods, inherit
from cni_plugin.pods.linkerd import INHERITED
from cni_plugin.pods.source import MIRROR_ANNOTATION, Pod, PodSourceError, _Metadata
from kubeapi import reflector
from kubeapi.client import ApiServer
from kubeapi.config import load_config
from tests.kubeapi.fake_apiserver import NAMESPACES, Asked, FakeApiServer, Fault, running, until
from vocabulary.annotations.redirect import ANNOTATION

SKIP_INBOUND, SKIP_OUTBOUND = INHERITED[:2]
POD = f"{NAMESPACES}/shop/pods/web-0"
NAMESPACE = f"{NAMESPACES}/shop"
KUBERNETES = "/api/v1/namespaces/default/services/kubernetes"
FOREVER = 1_000_000
PROXY = ("app", "linkerd-proxy")


@dataclass
class Setup:
    """A fake API server, and the pods of node n1 that come from it."""

    server: FakeApiServer
    pods: ClusterPods
    metrics: Metrics

    async def get(self, name: str = "shop/web-0", uid: str = "u1") -> Pod | None:
        """Ask as one of the agent's threads does."""
        namespace, _, short = name.partition("/")
        return await asyncio.to_thread(self.pods.get, namespace, short, uid)

    async def knows(self, count: int) -> None:
        """Wait until the watch is there and has told of so many pods."""
        await until(lambda: self.held == count and self.server.watching)

    @property
    def held(self) -> float | None:
        return self.sample("pods")

    def sample(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"linkerd_cni_{name}", labels)

    def asked_for(self, path: str) -> int:
        return self.server.count(lambda asked: asked.path == path)

    def away(self, match: Callable[[Asked], bool] = lambda _: True) -> Fault:
        """From now on requests are dropped without an answer."""
        fault = Fault(match, times=FOREVER)
        self.server.faults.append(fault)
        return fault


Run = Callable[..., None]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a test's coroutine on pods from a fake API server."""

    def run(test: Callable[[Setup], Coroutine[Any, Any, None]], node: str | None = "n1") -> None:
        async def within() -> None:
            async with asyncio.timeout(20), running() as server:
                metrics = Metrics()
                api = ApiThread(ApiServer(load_config(server.kubeconfig(tmp_path))))
                pods = ClusterPods(api, node, metrics)
                server.put("shop")
                api.start()
                try:
                    await test(Setup(server, pods, metrics))
                finally:
                    await asyncio.to_thread(api.stop)

        asyncio.run(within())

    return run


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look-ups give up soon."""
    monkeypatch.setattr(cluster_pods, "LOOKUP_SECONDS", 1.0)
    monkeypatch.setattr(cluster_pods, "TURN_SECONDS", 0.05)


# Memory


def test_a_pod_of_this_node_costs_no_request(run: Run) -> None:
    async def test(setup: Setup) -> None:
        setup.server.put_pod("shop/web-0", "app", uid="u1")
        setup.server.put_pod("shop/other", "app", uid="u2", node="n2")
        await setup.knows(1)
        found = await setup.get()
        assert found is not None
        assert found.container_names == {"app"}
        assert setup.asked_for(POD) == 0
        assert setup.sample("pod_lookups_total", result="memory") == 1

    run(test)


def test_little_of_a_pod_is_kept(run: Run) -> None:
    ours = {SKIP_INBOUND: "80", ANNOTATION: "{}", MIRROR_ANNOTATION: "h"}
    pod = {
        "metadata": {
            "name": "web-0",
            "namespace": "shop",
            "annotations": {**ours, "a": "b", "kubernetes.io/config.seen": "x"},
            "labels": {"app": "web", "linkerd.io/control-plane-component": "destination"},
        },
        "spec": {"containers": [{"name": "app", "image": "i", "env": []}]},
        "status": {"phase": "Running"},
    }
    key, kept = cluster_pods._read(json.dumps(pod).encode())
    assert key == ("shop", "web-0")
    assert kept.annotations == ours
    assert kept.labels == {"linkerd.io/control-plane-component": "destination"}


def test_a_pod_of_the_same_name_is_not_taken_for_this_one(run: Run) -> None:
    async def test(setup: Setup) -> None:
        setup.server.put_pod("shop/web-0", "app", uid="old")
        await setup.knows(1)
        # The watch has not told of the next one yet.
        next_one = json.loads(json.dumps(setup.server.objects[POD]))
        next_one["metadata"]["uid"] = "new"
        setup.server.objects[POD] = next_one
        found = await setup.get(uid="new")
        assert found is not None
        assert found.metadata.uid == "new"
        assert setup.asked_for(POD) == 1
        assert await setup.get(uid="neither") is None

    run(test)


def test_without_a_uid_memory_is_not_believed(run: Run) -> None:
    async def test(setup: Setup) -> None:
        setup.server.put_pod("shop/web-0", "app", uid="u1")
        await setup.knows(1)
        assert await setup.get(uid="")
        assert setup.asked_for(POD) == 1

    run(test)


def test_a_static_pod_is_known_by_its_mirror(run: Run) -> None:
    async def test(setup: Setup) -> None:
        annotations = {MIRROR_ANNOTATION: "hash"}
        setup.server.put_pod("shop/web-0", "app", uid="u1", annotations=annotations)
        await setup.knows(1)
        assert await setup.get(uid="hash")
        assert setup.asked_for(POD) == 0

    run(test)


def test_pods_that_are_gone_are_forgotten(run: Run) -> None:
    async def test(setup: Setup) -> None:
        setup.server.put_pod("shop/web-0", "app", uid="u1")
        await setup.knows(1)
        setup.server.delete_pod("shop/web-0")
        await until(lambda: setup.held == 0)
        assert await setup.get() is None
        assert setup.sample("pod_lookups_total", result="missing") == 1

    run(test)


async def _restart(setup: Setup) -> None:
    await setup.server.stop()
    setup.server.forget_history()
    await setup.server.start()


async def _break(setup: Setup) -> None:
    setup.server.drop_connections()


async def _expire(setup: Setup) -> None:
    setup.server.forget_history()
    setup.server.end_watches()


async def _garbage(setup: Setup) -> None:
    setup.server.say("<html>")
    setup.server.say('{"type":"ADDED","object":3}')


async def _ended(setup: Setup) -> None:
    setup.server.say('{"type":"ERROR","object":{"kind":"Status","code":410,"message":"old"}}')


@pytest.mark.parametrize("event", [_restart, _break, _expire, _garbage, _ended])
def test_the_watch_goes_on_after(
    run: Run, event: Callable[[Setup], Coroutine[Any, Any, None]]
) -> None:
    async def test(setup: Setup) -> None:
        setup.server.put_pod("shop/old", "app", uid="u0")
        await setup.knows(1)
        await event(setup)
        setup.server.put_pod("shop/web-0", "app", uid="u1")
        await until(lambda: setup.held == 2)
        assert await setup.get()
        assert setup.asked_for(POD) == 0

    run(test)


# By name


def test_what_memory_does_not_know_is_asked_for(run: Run) -> None:
    async def test(setup: Setup) -> None:
        setup.server.put_pod("shop/web-0", "app", uid="u1")
        assert await setup.get()
        assert await setup.get("shop/none") is None
        assert not setup.server.count(lambda asked: asked.is_list)
        assert setup.sample("pod_lookups_total", result="fetched") == 1
        assert setup.sample("pod_lookups_total", result="missing") == 1

    run(test, node=None)


def test_a_watch_that_is_not_allowed_leaves_the_get(run: Run) -> None:
    async def test(setup: Setup) -> None:
        forbidden = Fault(lambda asked: asked.is_list, status=403, times=FOREVER)
        setup.server.faults.append(forbidden)
        setup.server.put_pod("shop/web-0", "app", uid="u1")
        await until(lambda: setup.sample("pods_watch_failures_total", cause="denied"))
        assert await setup.get()
        problem = setup.pods.problem()
        assert problem
        assert "not known yet" in problem

    with capture_logs() as logs:
        run(test)
    assert "cannot watch this node's pods" in {entry["event"] for entry in logs}


@pytest.mark.parametrize("name", ["shop/..", "../web-0", "shop/a?b", "shop/a%2fb", "shop/"])
def test_no_name_leads_to_another_path(run: Run, name: str) -> None:
    async def test(setup: Setup) -> None:
        assert await setup.get(name) is None
        assert setup.server.asked == []

    run(test, node=None)


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (Fault(lambda _: True, times=FOREVER), "does not answer"),
        (Fault(lambda _: True, status=503, times=FOREVER), "with 503: as the test wants it"),
        (Fault(lambda _: True, status=403), "with 403: as the test wants it"),
        (Fault(lambda _: True, status=200, body=b"<html>"), "not understood"),
        (Fault(lambda _: True, status=200, body=b'{"metadata":{"name":"x"}}'), "another pod"),
        (Fault(lambda _: True, until=asyncio.Event()), "did not answer within 1 s"),
    ],
    ids=["dropped", "unavailable", "forbidden", "garbage", "another pod", "silent"],
)
@pytest.mark.usefixtures("short")
def test_what_cannot_be_found_out_is_said(run: Run, fault: Fault, text: str) -> None:
    async def test(setup: Setup) -> None:
        setup.server.put_pod("shop/web-0", "app", uid="u1")
        setup.server.faults.append(fault)
        with pytest.raises(PodSourceError, match=text):
            await setup.get()
        assert setup.sample("pod_lookups_total", result="failed") == 1
        setup.server.faults.clear()
        assert await setup.get()

    run(test, node=None)


def test_a_short_fault_is_tried_again_within_the_deadline(run: Run) -> None:
    async def test(setup: Setup) -> None:
        setup.server.put_pod("shop/web-0", "app", uid="u1")
        setup.server.faults.append(Fault(lambda _: True, status=503))
        assert await setup.get()

    run(test, node=None)


def test_not_all_threads_wait_for_an_api_server_that_is_silent(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_pods, "TURN_SECONDS", 0.05)

    async def test(setup: Setup) -> None:
        setup.server.put_pod("shop/web-0", "app", uid="u1")
        answer = asyncio.Event()
        setup.server.faults.append(Fault(lambda _: True, times=FOREVER, until=answer))
        waiting = [asyncio.create_task(setup.get()) for _ in range(cluster_pods.LOOKUPS)]
        await until(lambda: setup.asked_for(POD) == cluster_pods.LOOKUPS)
        with pytest.raises(PodSourceError, match="4 other pods are being looked up"):
            await setup.get()
        answer.set()
        assert all(await asyncio.gather(*waiting))
        assert await setup.get()

    run(test, node=None)


# The namespace's annotations


@pytest.mark.parametrize(
    ("own", "handed", "expected"),
    [
        ({}, {SKIP_INBOUND: "80"}, {SKIP_INBOUND: "80"}),
        ({SKIP_INBOUND: "90"}, {SKIP_INBOUND: "80"}, {SKIP_INBOUND: "90"}),
        ({SKIP_INBOUND: ""}, {SKIP_INBOUND: "80"}, {SKIP_INBOUND: "80"}),
        ({SKIP_INBOUND: "90"}, {SKIP_OUTBOUND: "1"}, {SKIP_INBOUND: "90", SKIP_OUTBOUND: "1"}),
        ({}, {SKIP_INBOUND: ""}, {}),
        ({}, {"config.linkerd.io/opaque-ports": "1"}, {}),
    ],
)
def test_a_namespace_hands_down_what_the_pod_lacks(
    own: dict[str, str], handed: dict[str, str], expected: dict[str, str]
) -> None:
    assert inherit(Pod(_Metadata(annotations=own)), handed).annotations == expected


@pytest.mark.parametrize("node", ["n1", None], ids=["from memory", "by a GET"])
def test_a_pod_of_linkerds_injector_has_its_namespaces_annotations(
    run: Run, node: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(setup: Setup) -> None:
        setup.server.put("shop", **{SKIP_INBOUND: "80", SKIP_OUTBOUND: "3306"})
        setup.server.put_pod("shop/web-0", *PROXY, uid="u1", annotations={SKIP_INBOUND: "90"})
        if node:
            await setup.knows(1)
        for _ in range(3):
            found = await setup.get()
            assert found is not None
            assert found.annotations == {SKIP_INBOUND: "90", SKIP_OUTBOUND: "3306"}
        assert setup.asked_for(NAMESPACE) == 1
        assert setup.pods.problem() is None
        if node:
            monkeypatch.setattr(ApiThread, "ask", None)  # The thread is not even asked.
            assert await setup.get() == found

    run(test, node=node)


@pytest.mark.parametrize(
    ("containers", "options"),
    [
        (("app",), {}),
        (PROXY, {"init": ("linkerd-init",)}),
        (PROXY, {"annotations": {ANNOTATION: "{}"}}),
        (PROXY, {"annotations": dict.fromkeys(INHERITED, "1")}),
    ],
    ids=["no proxy", "linkerd-init", "our injector's", "all its own"],
)
def test_a_namespace_that_cannot_count_is_not_asked_for(
    run: Run, containers: tuple[str, ...], options: dict[str, Any]
) -> None:
    async def test(setup: Setup) -> None:
        setup.server.put_pod("shop/web-0", *containers, uid="u1", **options)
        assert await setup.get()
        assert setup.asked_for(NAMESPACE) == 0

    run(test, node=None)


@pytest.mark.usefixtures("short")
def test_a_namespace_that_nobody_knows_is_not_guessed(run: Run) -> None:
    async def test(setup: Setup) -> None:
        setup.server.put_pod("shop/web-0", *PROXY, uid="u1")
        await setup.knows(1)
        setup.away(lambda asked: asked.path == NAMESPACE)
        with pytest.raises(PodSourceError, match="does not answer"):
            await setup.get()
        setup.server.faults.clear()
        assert await setup.get()

    run(test)


@pytest.mark.usefixtures("short")
def test_what_is_known_goes_on_while_the_api_server_is_away(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_pods, "NAMESPACE_SECONDS", 0.0)

    async def test(setup: Setup) -> None:
        setup.server.put("shop", **{SKIP_INBOUND: "80"})
        setup.server.put_pod("shop/web-0", *PROXY, uid="u1")
        await setup.knows(1)
        before = await setup.get()
        await setup.server.stop()
        try:
            assert await setup.get() == before
        finally:
            await setup.server.start()
        setup.server.put("shop", **{SKIP_INBOUND: "81"})
        after = await setup.get()
        assert after is not None
        assert after.annotations == {SKIP_INBOUND: "81"}

    with capture_logs() as logs:
        run(test)
    assert "namespace as it was" in {entry["event"] for entry in logs}


# The API server's own ports


def service(*ports: tuple[int, int | str]) -> dict[str, Any]:
    entries = [{"name": "https", "port": port, "targetPort": target} for port, target in ports]
    return {"metadata": {"name": "kubernetes"}, "spec": {"ports": entries}}


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize(
    ("found", "ports"),
    [
        (service((443, 6443)), (443, 6443)),
        (service((443, 443), (8443, 9443)), (443, 8443, 9443)),
        (service((443, "https")), (443,)),
        (service(), (443, 6443)),
        (service((0, 99999)), (443, 6443)),
        ({"spec": {"ports": [{"port": "x"}]}}, (443, 6443)),
        (None, (443, 6443)),
    ],
)
def test_the_api_servers_ports_are_those_of_its_service(
    run: Run, found: dict[str, Any] | None, ports: tuple[int, ...]
) -> None:
    async def test(setup: Setup) -> None:
        if found:
            setup.server.objects[KUBERNETES] = found
        assert await asyncio.to_thread(setup.pods.api_server_ports) == ports

    run(test)


@pytest.mark.usefixtures("short")
def test_the_api_servers_ports_are_kept_while_it_is_away(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(setup: Setup) -> None:
        setup.server.objects[KUBERNETES] = service((443, 8443))
        for _ in range(2):
            assert await asyncio.to_thread(setup.pods.api_server_ports) == (443, 8443)
        assert setup.asked_for(KUBERNETES) == 1
        monkeypatch.setattr(cluster_pods, "SERVICE_SECONDS", 0.0)
        setup.away()
        assert await asyncio.to_thread(setup.pods.api_server_ports) == (443, 8443)
        setup.server.faults.clear()
        setup.server.objects[KUBERNETES] = service((443, 7443))
        assert await asyncio.to_thread(setup.pods.api_server_ports) == (443, 7443)

    run(test)


def test_a_bug_in_the_watch_leaves_the_look_ups(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(_: object) -> None:
        raise RuntimeError("bug")

    monkeypatch.setattr(reflector.Reflector, "run", broken)

    async def test(setup: Setup) -> None:
        setup.server.put_pod("shop/web-0", "app", uid="u1")
        assert await setup.get()

    with capture_logs() as logs:
        run(test)
    assert [entry["log_level"] for entry in logs] == ["error"]
