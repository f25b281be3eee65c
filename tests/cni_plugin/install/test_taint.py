"""The startup taint goes once the agent is ready, and no other taint ever does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonpatch
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from cni_plugin.agent.metrics import Metrics, TaintMetrics
from cni_plugin.install import taint
from cni_plugin.install.taint import Untainter, removal
from cni_plugin.pods.api_thread import ApiThread
from kubeapi.client import ApiServer
from kubeapi.config import load_config
from tests.kubeapi.fake_apiserver import Asked, FakeApiServer, Fault, running, until

KEY = "meshgraft.io/cni-not-ready"
OURS = {"key": KEY, "effect": "NoSchedule"}
OTHER = {"key": "node.cilium.io/agent-not-ready", "effect": "NoExecute", "timeAdded": "x"}
PATH = "/api/v1/nodes/n1"

taints = st.lists(
    st.fixed_dictionaries(
        {"key": st.sampled_from([KEY, "a", "b"]), "effect": st.sampled_from(["x", "y"])},
        optional={"value": st.sampled_from(["", KEY])},
    ),
    max_size=5,
)


def node(taints: list[dict[str, Any]]) -> dict[str, Any]:
    spec = {"taints": taints} if taints else {}
    return {"kind": "Node", "metadata": {"name": "n1"}, "spec": {"podCIDR": "10.0.0.0/24", **spec}}


@given(taints)
def test_exactly_the_taints_with_the_key_go(found: list[dict[str, Any]]) -> None:
    patch = removal(found, KEY)
    left = jsonpatch.apply_patch(node(found), patch)["spec"].get("taints", [])
    assert left == [each for each in found if each["key"] != KEY]
    assert bool(patch) == (left != found)


@given(taints, taints)
def test_a_list_that_changed_meanwhile_loses_nothing_of_others(
    read: list[dict[str, Any]], meanwhile: list[dict[str, Any]]
) -> None:
    try:
        left = jsonpatch.apply_patch(node(meanwhile), removal(read, KEY))["spec"].get("taints", [])
    except jsonpatch.JsonPatchException:
        return  # refused as a whole
    assert [each for each in left if each["key"] != KEY] == [
        each for each in meanwhile if each["key"] != KEY
    ]


Happening = Callable[[FakeApiServer, Asked], None]


def conflicts_once(server: FakeApiServer) -> None:
    """Somebody adds a taint in front between our GET and our PATCH."""

    def changed(asked: Asked) -> bool:
        if asked.method == "PATCH":
            server.faults.clear()
            server.objects[PATH]["spec"]["taints"].insert(0, {"key": "new", "effect": "NoSchedule"})
        return False

    server.faults.append(Fault(changed))


def refused_once(server: FakeApiServer) -> None:
    server.faults.append(Fault(lambda asked: asked.method == "PATCH", status=403))


def dropped_once(server: FakeApiServer) -> None:
    server.faults.append(Fault(lambda asked: asked.method == "PATCH"))


@pytest.mark.parametrize(
    ("happens", "left", "failed"),
    [
        (lambda _: None, [OTHER], 0),
        (conflicts_once, [{"key": "new", "effect": "NoSchedule"}, OTHER], 1),
        (refused_once, [OTHER], 1),
        (dropped_once, [OTHER], 1),
    ],
)
def test_it_goes_once_the_agent_is_ready_whatever_happens(
    tmp_path: Path,
    happens: Callable[[FakeApiServer], None],
    left: list[dict[str, Any]],
    failed: int,
) -> None:
    ready = threading.Event()
    metrics = Metrics()

    async def cluster() -> None:
        async with asyncio.timeout(20), running() as server:
            server.objects[PATH] = node([OTHER, OURS])
            happens(server)
            api = ApiThread(ApiServer(load_config(server.kubeconfig(tmp_path))))
            api.start()
            observer = TaintMetrics(metrics.registry)
            untainter = Untainter(api, "n1", KEY, ready.is_set, observer)
            stop = threading.Event()
            running_part = asyncio.create_task(asyncio.to_thread(untainter.run, stop))
            with pytest.raises(TimeoutError):
                await until(lambda: server.asked, 0.1)  # not ready: nothing is asked
            ready.set()
            await until(lambda: sample("removed") == 1)
            assert server.objects[PATH]["spec"]["taints"] == left
            stop.set()
            await running_part
            await asyncio.to_thread(api.stop)

    def sample(result: str) -> float | None:
        name = "linkerd_cni_startup_taint_total"
        return metrics.registry.get_sample_value(name, {"result": result})

    with capture_logs() as logs:
        asyncio.run(cluster())
    assert sample("failed") == failed
    assert logs[-1]["event"] == "removed the startup taint"
    assert logs[-1]["node"] == "n1"


def test_a_taint_that_comes_back_goes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taint, "AGAIN_SECONDS", 0.01)

    async def cluster() -> None:
        async with asyncio.timeout(20), running() as server:
            server.objects[PATH] = node([])
            api = ApiThread(ApiServer(load_config(server.kubeconfig(tmp_path))))
            api.start()
            observer = TaintMetrics(Metrics().registry)
            untainter, stop = Untainter(api, "n1", KEY, lambda: True, observer), threading.Event()
            part = asyncio.create_task(asyncio.to_thread(untainter.run, stop))
            await until(lambda: len(server.asked) > 2)
            assert {asked.method for asked in server.asked} == {"GET"}
            server.objects[PATH] = node([OURS])
            await until(lambda: not server.objects[PATH]["spec"].get("taints"))
            stop.set()
            await part
            await asyncio.to_thread(api.stop)

    asyncio.run(cluster())


@pytest.mark.parametrize("name", ["n1", "../pods", ""])
def test_a_node_that_is_not_there_or_cannot_be_is_never_fatal(tmp_path: Path, name: str) -> None:
    async def cluster() -> None:
        async with asyncio.timeout(20), running() as server:
            api = ApiThread(ApiServer(load_config(server.kubeconfig(tmp_path))))
            api.start()
            observer = TaintMetrics(Metrics().registry)
            untainter, stop = Untainter(api, name, KEY, lambda: True, observer), threading.Event()
            part = asyncio.create_task(asyncio.to_thread(untainter.run, stop))
            await until(lambda: logs)
            stop.set()
            await part
            await asyncio.to_thread(api.stop)
            assert {asked.path for asked in server.asked} <= {PATH}

    with capture_logs() as logs:
        asyncio.run(cluster())
    assert logs[0]["log_level"] == "warning"
