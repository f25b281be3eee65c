"""Whether the end of an agent is the plugin's uninstallation, or only a restart."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from cni_plugin.install import leaving
from cni_plugin.install.leaving import (
    DENIED_WITHIN_SECONDS,
    Look,
    OwnDaemonSet,
    State,
    Verdict,
    judge,
)
from cni_plugin.pods.api_thread import ApiThread
from kubeapi.client import ApiServer
from kubeapi.config import load_config
from tests.kubeapi.fake_apiserver import FakeApiServer, Fault, running, until

PATH = "/apis/apps/v1/namespaces/linkerd-cni/daemonsets/linkerd-cni"
NAMESPACE = "/api/v1/namespaces/linkerd-cni"
FOREVER = 1_000_000


@pytest.mark.parametrize(
    ("state", "seen", "uninstall"),
    [
        ("there", None, False),
        ("there", 1.0, False),
        ("going", None, True),
        ("going", 1e6, True),
        ("absent", None, False),  # perhaps the name is wrong
        ("absent", 1.0, True),
        ("absent", 1e6, True),
        ("denied", None, False),  # perhaps it was never allowed
        ("denied", 1.0, True),
        ("denied", DENIED_WITHIN_SECONDS, True),
        ("denied", DENIED_WITHIN_SECONDS + 1, False),  # somebody broke it long ago
        ("unknown", None, False),
        ("unknown", 1.0, False),
    ],
)
def test_only_what_means_the_end_of_the_daemonset_uninstalls(
    state: State, seen: float | None, uninstall: bool
) -> None:
    verdict = judge(Look(state, "as the API server says"), seen)
    assert verdict.uninstall == uninstall
    assert verdict.reason.startswith("as the API server says")


def daemonset(**meta: Any) -> dict[str, Any]:
    return {"kind": "DaemonSet", "metadata": {"name": "linkerd-cni", **meta}}


def dropping() -> Fault:
    return Fault(lambda _: True, times=FOREVER)


def refusing(status: int, path: str = PATH, times: int = FOREVER) -> Fault:
    return Fault(lambda asked: asked.path == path, status=status, times=times)


def gone(server: FakeApiServer) -> None:
    del server.objects[PATH]


def deleted(server: FakeApiServer) -> None:
    server.objects[PATH] = daemonset(deletionTimestamp="2026-11-21T10:00:00Z")


def namespace_deleted(server: FakeApiServer) -> None:
    server.namespaces["linkerd-cni"]["metadata"]["deletionTimestamp"] = "2026-11-21T10:00:00Z"


def made_anew(server: FakeApiServer) -> None:
    server.objects[PATH] = daemonset(uid="another")


def fails(fault: Callable[[], Fault]) -> Callable[[FakeApiServer], None]:
    return lambda server: server.faults.append(fault())


def nonsense(server: FakeApiServer) -> None:
    server.objects[PATH] = {"kind": "Status", "metadata": {}}


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaving, "_ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(leaving, "_DENIED_AGAIN_SECONDS", 0.0)


def judged(
    tmp_path: Path, happens: Callable[[FakeApiServer], None] | None, known: bool = True
) -> Verdict:
    """The verdict at the end of an agent that has seen its DaemonSet (``known``), after
    something happened to it."""

    async def cluster() -> Verdict:
        async with asyncio.timeout(20), running() as server:
            server.put("linkerd-cni")
            server.objects[PATH] = daemonset()
            api = ApiThread(ApiServer(load_config(server.kubeconfig(tmp_path))))
            api.start()
            own, stop = OwnDaemonSet(api, "linkerd-cni", "linkerd-cni"), threading.Event()
            watching = asyncio.create_task(asyncio.to_thread(own.run, stop))
            if known:
                await until(lambda: own._seen)
                if happens:
                    happens(server)
            stop.set()
            try:
                return await asyncio.to_thread(own.verdict)
            finally:
                await watching
                await asyncio.to_thread(api.stop)

    return asyncio.run(cluster())


@pytest.mark.parametrize(
    ("happens", "reason"),
    [
        (gone, "with 404"),
        (deleted, "DaemonSet linkerd-cni/linkerd-cni is being deleted"),
        (namespace_deleted, "the namespace linkerd-cni is being deleted"),
        (fails(lambda: refusing(401)), "rights are being removed"),
        (fails(lambda: refusing(403)), "rights are being removed"),
    ],
)
def test_an_uninstallation_is_noticed(
    tmp_path: Path, happens: Callable[[FakeApiServer], None], reason: str
) -> None:
    verdict = judged(tmp_path, happens)
    assert verdict.uninstall, verdict.reason
    assert reason in verdict.reason


@pytest.mark.parametrize(
    "happens",
    [
        None,
        made_anew,
        nonsense,
        fails(dropping),
        fails(lambda: refusing(500)),
        fails(lambda: refusing(403, times=1)),
        fails(lambda: refusing(403, NAMESPACE)),
    ],
)
def test_anything_else_leaves_the_node_as_it_is(
    tmp_path: Path, happens: Callable[[FakeApiServer], None] | None
) -> None:
    assert not judged(tmp_path, happens).uninstall


def test_an_agent_that_cannot_read_its_daemonset_says_so_once_and_leaves_all_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leaving, "LOOK_SECONDS", 0.01)

    async def cluster() -> Verdict:
        async with asyncio.timeout(20), running() as server:
            api = ApiThread(ApiServer(load_config(server.kubeconfig(tmp_path))))
            api.start()
            own, stop = OwnDaemonSet(api, "linkerd-cni", "wrong"), threading.Event()
            looking = asyncio.create_task(asyncio.to_thread(own.run, stop))
            await until(lambda: len(server.asked) > 3)
            stop.set()
            await looking
            try:
                return await asyncio.to_thread(own.verdict)
            finally:
                await asyncio.to_thread(api.stop)

    with capture_logs() as logs:
        verdict = asyncio.run(cluster())
    assert not verdict.uninstall
    assert "never saw its own DaemonSet" in verdict.reason
    assert len([entry for entry in logs if entry["log_level"] == "warning"]) == 1
