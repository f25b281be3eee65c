"""The agent as a process that installs: its start, its successor, and its end, on a whole node."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cni_plugin.shim_support import (
    environment,
    netconf,
    program,
    run_program,
    wait_until,
)
from tests.kubeapi.fake_apiserver import FakeApiServer, running

DAEMONSET = "/apis/apps/v1/namespaces/mesh/daemonsets/linkerd-cni"
NODE = "/api/v1/nodes/n1"
KEY = "meshgraft.io/cni-not-ready"
LIST = {"name": "net", "cniVersion": "1.1.0", "plugins": [{"type": "bridge"}]}

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: tries rules in a netns of its own"),
]


class Agent:
    """``meshgraft cni-agent`` as a process, from its line "serving" on; its log is read all the
    time, as a pipe that is full would hold it up."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        begun = time.monotonic()
        self.process = process
        self.log: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        wait_until(lambda: self.serving is not None or process.poll() is not None, 20)
        self.seconds = time.monotonic() - begun
        assert self.serving is not None, self.log
        self.port = self.serving["metricsPort"]

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.log.extend(self.process.stderr)

    @property
    def serving(self) -> dict[str, Any] | None:
        entries: Iterator[dict[str, Any]] = (json.loads(line) for line in self.log)
        return next((entry for entry in entries if entry["msg"] == "serving"), None)

    def page(self, name: str) -> tuple[int, str]:
        url = f"http://127.0.0.1:{self.port}/{name}"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def end(self) -> str:
        """SIGTERM; what it logged."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(20) == 0
        self._reader.join(5)
        return "".join(self.log)

    def kill(self) -> None:
        self.process.kill()
        self._reader.join(5)


@dataclass
class Node:
    """A node's folders below a temporary one, and the agents that run on it."""

    root: Path

    def __post_init__(self) -> None:
        self.net.mkdir(parents=True)
        self.program.parent.mkdir(parents=True)

    @property
    def net(self) -> Path:
        return self.root / "host/etc/cni/net.d"

    @property
    def conflist(self) -> Path:
        return self.net / "10-net.conflist"

    @property
    def program(self) -> Path:
        return self.root / "host/opt/cni/bin/linkerd-cni"

    @property
    def socket(self) -> Path:
        return self.root / "run/agent.sock"

    def plugins(self) -> list[dict[str, Any]]:
        found = json.loads(self.conflist.read_bytes())["plugins"]
        assert isinstance(found, list)
        return found

    def command(self, *options: str) -> list[str]:
        own = ["--program", str(program()), "--socket", str(self.socket)]
        return [sys.executable, "-m", "meshgraft", "cni-agent", *own, *options]

    def environment(self) -> dict[str, str]:
        env = {key: text for key, text in os.environ.items() if key != "KUBERNETES_SERVICE_HOST"}
        pod = {"POD_NAMESPACE": "mesh", "NODE_NAME": "n1"}
        return {**env, **pod, "CONTAINER_MOUNT_PREFIX": str(self.root / "host")}

    @contextmanager
    def agent(self, *options: str) -> Iterator[Agent]:
        command = self.command("--install", "--metrics-listen", "127.0.0.1:0", *options)
        with subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env=self.environment()
        ) as process:
            agent = Agent(process)
            try:
                yield agent
            finally:
                agent.kill()

    def serves(self) -> bool:
        """Ask for STATUS as the runtime does: the installed program, with the installed entry.

        The exit code is 0 in either case; where no agent answered, the program says so.
        """
        conf = {**self.plugins()[-1], "name": "net", "cniVersion": "1.1.0"}
        env = environment("STATUS", CNI_NETNS=None, LINKERD_CNI_SOCKET=None)
        done = subprocess.run(
            [self.program], input=json.dumps(conf).encode(), env=env, capture_output=True,
            timeout=15, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return b"cannot serve" not in done.stderr


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def on_a_cluster(node: Node, story: Callable[[FakeApiServer, str], None]) -> None:
    """Run ``story`` in a thread, with an API server that has the agent's objects, and a
    kubeconfig for it."""

    async def cluster() -> None:
        async with asyncio.timeout(60), running() as server:
            server.put("mesh")
            server.objects[DAEMONSET] = {"metadata": {"name": "linkerd-cni"}}
            taints = [{"key": "other", "effect": "NoSchedule"}, {"key": KEY, "effect": "NoExecute"}]
            server.objects[NODE] = {"metadata": {"name": "n1"}, "spec": {"taints": taints}}
            kubeconfig = str(server.kubeconfig(node.root))
            await asyncio.to_thread(story, server, kubeconfig)

    asyncio.run(cluster())


def taints(server: FakeApiServer) -> list[str]:
    return [taint["key"] for taint in server.objects[NODE]["spec"]["taints"]]


def test_an_agent_serves_installs_untaints_stays_over_a_restart_and_goes_with_its_daemonset(
    node: Node,
) -> None:
    def story(server: FakeApiServer, kubeconfig: str) -> None:
        options = ("--kubeconfig", kubeconfig, "--startup-taint", KEY)
        with node.agent(*options) as agent:
            # It serves before there is a network to be chained into, and says what it waits for.
            assert node.socket.is_socket()
            wait_until(lambda: "no network configuration" in agent.page("readyz")[1])
            assert agent.page("readyz")[0] == 503
            assert agent.page("livez") == (200, "ok\n")
            assert taints(server) == ["other", KEY]
            node.conflist.write_text(json.dumps(LIST))
            wait_until(lambda: agent.page("readyz") == (200, "ok\n"))
            assert [plugin["type"] for plugin in node.plugins()] == ["bridge", "linkerd-cni"]
            assert node.serves()
            wait_until(lambda: taints(server) == ["other"])
            assert "linkerd_cni_install_ready 1.0" in agent.page("metrics")[1]
            log = agent.end()
        assert "leaving the plugin installed" in log
        assert "the DaemonSet mesh/linkerd-cni is there" in log
        assert len(node.plugins()) == 2
        assert node.program.is_file()
        assert not node.serves()  # nobody is there

        before = server.count(lambda asked: asked.path == DAEMONSET)
        with node.agent(*options) as again:
            assert min(agent.seconds, again.seconds) < 2  # of two, as the machine may be busy
            assert node.serves()
            wait_until(lambda: server.count(lambda asked: asked.path == DAEMONSET) > before)
            del server.objects[DAEMONSET]
            log = again.end()
        assert "uninstalling the plugin" in log
        assert json.loads(node.conflist.read_bytes()) == LIST
        assert not node.program.exists()
        steps = [entry["what"] for entry in map(json.loads, log.splitlines()) if "what" in entry]
        assert ["took our entry" in steps[0], "removed" in steps[1]] == [True, True]

    on_a_cluster(node, story)


def test_a_later_agent_takes_over_without_a_gap(node: Node) -> None:
    node.conflist.write_text(json.dumps(LIST))
    stop, answers = threading.Event(), list[str]()

    def keep_asking() -> None:
        env = environment("STATUS", CNI_NETNS=None)
        while not stop.is_set():
            done = run_program(env, netconf(cniVersion="1.1.0"), node.socket)
            answers.append(f"{done.exit_code} {done.stderr}")

    with node.agent() as first:
        asking = threading.Thread(target=keep_asking)
        asking.start()
        try:
            wait_until(lambda: len(answers) > 5)
            with node.agent() as second:
                log = first.end()
                assert "a later agent has taken over" in log
                assert second.page("livez") == (200, "ok\n")
                assert second.page("readyz") == (200, "ok\n")
                asked = len(answers)
                wait_until(lambda: len(answers) > asked + 5)
                stop.set()
                asking.join()
        finally:
            stop.set()
    assert set(answers) == {"0 "}


def test_a_node_can_be_cleaned_by_hand(node: Node) -> None:
    node.conflist.write_text(json.dumps(LIST))
    with node.agent() as agent:
        wait_until(lambda: agent.page("readyz")[0] == 200)
        log = agent.end()
    assert "the agent's DaemonSet is not known" in log
    done = subprocess.run(
        node.command("--uninstall"),
        env=node.environment(), capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "took our entry out" in done.stdout
    assert json.loads(node.conflist.read_bytes()) == LIST
    assert not node.program.exists()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--install", "--uninstall"), "--install and --uninstall exclude each other"),
        (("--install", "--dest-cni-net-dir", "x"), "--dest-cni-net-dir 'x': expected a path"),
        (("--daemonset", "linkerd-cni"), "--daemonset 'linkerd-cni': expected NAMESPACE/NAME"),
        (("--startup-taint", KEY), "--startup-taint needs an API server"),
    ],
)
def test_what_cannot_be_meant_is_a_sentence(
    node: Node, options: tuple[str, ...], text: str
) -> None:
    done = subprocess.run(
        node.command(*options),
        env=node.environment(), capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_what_cannot_be_taken_out_is_said_and_fails(node: Node) -> None:
    broken = node.net / "20-broken.conflist"
    broken.write_text('{"plugins":[{"type":"linkerd-cni"}')
    node.program.touch()
    done = subprocess.run(
        node.command("--uninstall"),
        env=node.environment(), capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert str(broken) in done.stderr
    assert node.program.exists()  # an ADD may still name it
