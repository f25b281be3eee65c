"""The agent's memory while it knows the 250 pods of a full node, and after it has served them."""

from __future__ import annotations

import asyncio
import json
import socket
import tempfile
import urllib.request
from pathlib import Path

from rich.table import Table

from tests.chain.agent import REDIRECT, AgentProcess, running_agent
from tests.chain.pods import call_all, many_pods
from tests.kubeapi.fake_apiserver import FakeApiServer, running, until

PODS = 250
_REVIEWS = Path(__file__).parent.parent / "tests/data/admission-reviews"
_NODE = "n1"


def measure_memory() -> Table:
    """RSS and PSS of an agent: without pods, with 250 watched, and after 250 ADDs.

    The legacy backend's worker process counts too.
    """
    table = Table("the agent's memory, MiB", "RSS", "PSS", "processes", "threads")
    for mode in ("nft", "legacy"):
        with tempfile.TemporaryDirectory(prefix="meshgraft-bench-") as folder:
            asyncio.run(_measure(Path(folder), mode, table))
    return table


async def _measure(folder: Path, mode: str, table: Table) -> None:
    metrics = f"127.0.0.1:{_free_port()}"
    async with running() as server:
        cluster = ["--kubeconfig", str(server.kubeconfig(folder)), "--node-name", _NODE]
        with running_agent(folder, mode, *cluster, "--metrics-listen", metrics) as agent:
            await until(lambda: bool(server.watching), 20)
            _add_row(table, f"{mode}: no pods", agent)
            for number in range(PODS):
                _put(server, number)
            async with asyncio.timeout(30):
                while f"linkerd_cni_pods {PODS}.0" not in await _get(f"http://{metrics}/metrics"):
                    await asyncio.sleep(0.05)
            _add_row(table, f"{mode}: {PODS} pods watched", agent)
            await asyncio.to_thread(_serve_all, agent)
            _add_row(table, f"{mode}: and {PODS} ADDs later, 24 at a time", agent)


def _put(server: FakeApiServer, number: int) -> None:
    """A pod that is as long as a real one: in place of ``managedFields`` a whole recorded pod."""
    reviews = sorted(_REVIEWS.glob("pod-*.json"))
    recorded = json.loads(reviews[number % len(reviews)].read_text())["request"]["object"]
    server.put_pod(
        f"shop/pod-{number}",
        *("app", "linkerd-proxy"),
        uid=f"00000000-0000-0000-0000-{number:012}",
        annotations=recorded["metadata"].get("annotations", {}),
        labels=recorded["metadata"].get("labels", {}),
        managedFields=[recorded],
    )


def _serve_all(agent: AgentProcess) -> None:
    with many_pods([REDIRECT] * PODS) as pods:
        for begin in range(0, PODS, 24):
            done = call_all("ADD", pods[begin : begin + 24], agent.environment)
            assert {outcome.code for outcome in done} == {0}


async def _get(url: str) -> str:
    def get() -> str:
        with urllib.request.urlopen(url, timeout=10) as response:
            text: str = response.read().decode()
            return text

    return await asyncio.to_thread(get)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def _add_row(table: Table, name: str, agent: AgentProcess) -> None:
    processes = [agent.pid, *_children(agent.pid)]
    sums = [sum(_kib(pid, key) for pid in processes) / 1024 for key in ("Rss", "Pss")]
    threads = len(list(Path(f"/proc/{agent.pid}/task").iterdir()))
    table.add_row(name, *(f"{mib:.1f}" for mib in sums), str(len(processes)), str(threads))


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def _kib(pid: int, key: str) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))
