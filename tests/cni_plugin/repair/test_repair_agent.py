"""The whole of it: a validator waits without rules, the agent starts, and the pod may start."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from meshgraft.lab.netns import Netns
from meshgraft.lab.process import Process
from tests.cni_plugin.nobody import validator_as_nobody
from tests.cni_plugin.repair_support import REDIRECT, Folder, at, pod_object
from tests.kubeapi.fake_apiserver import PODS, FakeApiServer, running, until

pytestmark = pytest.mark.root

MESHGRAFT = [sys.executable, "-m", "meshgraft"]
IP, IP6 = "10.81.0.5", "fd81::5"


@contextmanager
def agent(tmp_path: Path, folder: Folder, *argv: str) -> Iterator[Process]:
    words = ["cni-agent", "--socket", str(tmp_path / "agent.sock"), "--netns-dir", str(folder.path)]
    process = Process("cni-agent", [*MESHGRAFT, *words, *argv], tmp_path / "agent.log")
    try:
        yield process
    finally:
        process.stop()


@contextmanager
def validator(netns: Netns, *argv: str) -> Iterator[subprocess.Popen[str]]:
    """In the pod, as nobody, with the arguments that our injector gives it."""
    process = subprocess.Popen(
        netns.command(*validator_as_nobody("--redirect", REDIRECT.to_annotation(), *argv)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=30)


def waits(netns: Netns) -> None:
    deadline = time.monotonic() + 30
    while ":102C " not in netns.run("cat", "/proc/net/tcp", "/proc/net/tcp6"):
        assert time.monotonic() < deadline, "the validator does not listen"
        time.sleep(0.02)


def network(folder: Folder) -> Netns:
    return folder.network(f"{IP}/24", f"{IP6}/64")


def put(server: FakeApiServer, ip: str, **given: object) -> None:
    """The pod as the kubelet shows it while its validator runs."""
    status = {"running": {"startedAt": at(time.time())}}
    made = pod_object(ip, IP6, state=status, **given)  # type: ignore[arg-type]
    path = f"/api/v1/namespaces/shop/pods/{made['metadata']['name']}"
    made["metadata"]["resourceVersion"] = "50"
    server.objects[path] = made


def test_a_waiting_pod_is_repaired_by_an_agent_that_comes_later(
    folder: Folder, tmp_path: Path
) -> None:
    """The agent's word about inbound comes too, so that a pod may insist on it."""
    netns = network(folder)
    stranger = folder.network("10.81.0.6/24")

    async def test() -> None:
        async with asyncio.timeout(60), running() as server:
            put(server, IP)
            kubeconfig = server.kubeconfig(tmp_path)
            with validator(netns, "--timeout", "50s", "--require-inbound") as process:
                await asyncio.to_thread(waits, netns)
                flags = ("--kubeconfig", str(kubeconfig), "--node-name", "n1", "--repair")
                with agent(tmp_path, folder, *flags) as running_agent:
                    output, errors = await asyncio.to_thread(process.communicate, timeout=50)
                    log = running_agent.log.read_text()
            assert (process.returncode, output) == (0, "Validated\n"), errors + log
            assert '"pod repaired in place"' in log
            assert server.count(lambda asked: asked.path == PODS and asked.is_list) == 1
            assert server.events == []

    asyncio.run(test())
    assert "meshgraft" not in stranger.run("nft", "list", "ruleset")


def test_what_cannot_be_repaired_gets_an_event_and_is_evicted(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POD_NAME", "linkerd-cni-x")
    code = "import cni_plugin.repair.news as r; r.PATIENCE_SECONDS = 0.2; r.EVICT_SECONDS = 0.4\n"
    code += "from meshgraft.cli import main; main()"

    async def test() -> None:
        async with asyncio.timeout(60), running() as server:
            put(server, "10.81.0.9", ownerReferences=[{"controller": True}])
            words = (
                *("cni-agent", "--socket", str(tmp_path / "agent.sock")),
                *("--netns-dir", str(folder.path), "--evict"),
                *("--kubeconfig", str(server.kubeconfig(tmp_path)), "--node-name", "n1"),
            )
            process = Process("cni-agent", [sys.executable, "-c", code, *words], tmp_path / "log")
            try:
                await until(lambda: evictions(server), 50)
            finally:
                await asyncio.to_thread(process.stop)
            (event,) = server.events
            assert event["reportingInstance"] == "linkerd-cni-x"
            assert "network namespaces in" in event["message"]
            assert json.loads(evictions(server)[0])["kind"] == "Eviction"

    def evictions(server: FakeApiServer) -> list[bytes]:
        return [asked.body for asked in server.asked if asked.path.endswith("/eviction")]

    asyncio.run(test())


def test_pods_of_a_file_are_repaired_too(folder: Folder, tmp_path: Path) -> None:
    netns = network(folder)
    made = pod_object(IP, IP6, state={"running": {"startedAt": at(time.time())}})
    pods = tmp_path / "pods.yaml"
    pods.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": [made]}))
    with (
        agent(tmp_path, folder, "--offline-objects", str(pods), "--repair"),
        validator(netns, "--timeout", "50s") as process,
    ):
        output, errors = process.communicate(timeout=50)
    assert (process.returncode, output) == (0, "Validated\n"), errors
