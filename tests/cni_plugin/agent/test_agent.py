"""The agent on a real socket; with root also the real program, netns and rules."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest
import structlog
from structlog.testing import capture_logs

from cni_plugin.agent import server as agent_module
from cni_plugin.agent.metrics import Metrics
from cni_plugin.agent.protocol import ProtocolError, Request, Response
from cni_plugin.agent.server import Agent, AgentError, AgentSettings
from cni_plugin.dataplane.expected import Expected, key_of
from cni_plugin.pods.source import KnownPods
from meshgraft.lab.netns import Netns
from tests.cni_plugin.shim_support import (
    REDIRECT,
    FakeBackend,
    Finished,
    call_agent,
    environment,
    netconf,
    recorded,
    run_program,
    wait_until,
)
from tests.kubeapi.fake_apiserver import FakeApiServer, running, until
from vocabulary.annotations.redirect import ANNOTATION

MESHED = netconf({ANNOTATION: REDIRECT.to_annotation()})
RESULT = recorded("add")[1]["prevResult"]


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def agent(tmp_path: Path, backend: FakeBackend, metrics: Metrics) -> Iterator[Agent]:
    settings = AgentSettings(tmp_path / "run/agent.sock", threads=2, deadline_seconds=0.5)
    agent = Agent(settings, backend, KnownPods(), metrics)
    agent.start()
    yield agent
    agent.stop()


@pytest.fixture
def path(tmp_path: Path, agent: Agent) -> Path:
    return tmp_path / "run/agent.sock"


def add(path: Path) -> Response:
    """A meshed pod's ADD; its netns is a file that the stand-in backend does not look at."""
    fd = os.open("/dev/null", os.O_RDONLY)
    try:
        return call_agent(path, Request(environment(), MESHED), (fd,))
    finally:
        os.close(fd)


def received(caller: socket.socket) -> bytes:
    """What the agent answers; its close is a reset where it did not read everything."""
    caller.settimeout(5)
    try:
        return caller.recv(1)
    except ConnectionResetError:
        return b""


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def sample(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_it_remembers_in_which_namespace_a_pod_lives(
    tmp_path: Path, backend: FakeBackend, metrics: Metrics
) -> None:
    expected = Expected()
    settings = AgentSettings(tmp_path / "agent.sock", threads=1)
    agent = Agent(settings, backend, KnownPods(), metrics, expected)
    agent.start()
    try:
        with open("/dev/null") as netns:  # noqa: PTH123
            env = environment()
            env["CNI_ARGS"] += ";K8S_POD_UID=uid-1"
            request = Request(env, MESHED)
            answer = call_agent(tmp_path / "agent.sock", request, (netns.fileno(),))
            assert answer.exit_code == 0, answer.stderr
            assert expected.home_of("uid-1") == key_of(netns.fileno())
    finally:
        agent.stop()


class TestSocket:
    def test_it_is_for_its_owner_only(self, path: Path) -> None:
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o755

    def test_it_is_gone_after_the_end(self, path: Path, agent: Agent) -> None:
        agent.stop()
        assert list(path.parent.iterdir()) == []

    def test_a_stale_one_is_replaced(self, tmp_path: Path, backend: FakeBackend) -> None:
        stale = tmp_path / "agent.sock"
        with socket.socket(socket.AF_UNIX) as old:
            old.bind(str(stale))
        agent = Agent(AgentSettings(stale, threads=1), backend, KnownPods(), Metrics())
        agent.start()
        assert add(stale).exit_code == 0
        agent.stop()

    def test_a_later_agent_takes_over_and_keeps_its_socket(
        self, path: Path, agent: Agent, backend: FakeBackend
    ) -> None:
        later_backend = FakeBackend()
        later = Agent(AgentSettings(path, threads=1), later_backend, KnownPods(), Metrics())
        later.start()
        agent.stop()
        assert add(path).exit_code == 0
        assert (len(backend.applied), len(later_backend.applied)) == (0, 1)
        later.stop()

    def test_of_two_that_begin_at_once_each_knows_its_own(
        self, tmp_path: Path, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """In containers both have process id 1. One stands still before its rename."""
        path, both = tmp_path / "agent.sock", threading.Barrier(2)
        rename = Path.rename

        def together(self: Path, target: Path) -> Path:
            both.wait(10)
            return rename(self, target)

        monkeypatch.setattr(Path, "rename", together)
        agents = [
            Agent(AgentSettings(path, threads=1), backend, KnownPods(), Metrics()) for _ in range(2)
        ]
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(Agent.start, agents))
        assert sorted(each.is_superseded() for each in agents) == [False, True]
        assert add(path).exit_code == 0
        for each in agents:
            each.stop()
        assert list(tmp_path.iterdir()) == []

    def test_something_else_in_its_place_stays(self, tmp_path: Path, backend: FakeBackend) -> None:
        other = tmp_path / "agent.sock"
        other.write_text("precious")
        agent = Agent(AgentSettings(other), backend, KnownPods(), Metrics())
        with pytest.raises(AgentError, match=r"agent\.sock: there is something else"):
            agent.start()
        assert other.read_text() == "precious"

    def test_a_path_that_cannot_be_made_is_named(self, backend: FakeBackend) -> None:
        agent = Agent(AgentSettings(Path("/dev/null/x")), backend, KnownPods(), Metrics())
        with pytest.raises(AgentError, match="/dev/null/x"):
            agent.start()

    @pytest.mark.root
    @pytest.mark.skipif(os.geteuid() != 0, reason="needs root: calls as another user")
    def test_another_user_is_not_answered(self, path: Path, metrics: Metrics) -> None:
        path.chmod(0o777)
        script = (
            "import os, socket; s = socket.socket(socket.AF_UNIX); os.setuid(65534); "
            "s.connect('agent.sock'); print(s.recv(1))"
        )
        with capture_logs() as logs:
            done = subprocess.run(
                [sys.executable, "-c", script],
                cwd=path.parent,
                capture_output=True,
                text=True,
                timeout=10,
            )
            wait_until(lambda: bool(logs))
        assert done.stdout == "b''\n", done.stderr
        assert "of uid 65534 may not call the agent" in logs[0]["error"]
        assert sample(metrics, "linkerd_cni_connections_refused_total") == 1


class TestReadiness:
    def test_it_is_ready_while_it_can_be_reached(self, path: Path, agent: Agent) -> None:
        assert agent.is_ready()
        path.unlink()
        assert not agent.is_ready()

    def test_it_is_not_ready_where_a_later_agent_is_reached(
        self, path: Path, agent: Agent, backend: FakeBackend
    ) -> None:
        later = Agent(AgentSettings(path, threads=1), backend, KnownPods(), Metrics())
        later.start()
        assert (agent.is_ready(), later.is_ready()) == (False, True)
        later.stop()

    @pytest.mark.parametrize("calls", [1, 2])
    def test_it_is_alive_until_all_threads_are_stuck(
        self, path: Path, agent: Agent, backend: FakeBackend, calls: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        go_on = threading.Event()
        backend.before = lambda: go_on.wait(10) and None
        with ThreadPoolExecutor(calls) as pool:
            answers = [pool.submit(add, path) for _ in range(calls)]
            wait_until(lambda: agent.in_flight == calls)
            assert agent.failures() == []
            monkeypatch.setattr(agent_module, "STUCK_SECONDS", 0.0)
            assert len(agent.failures()) == (calls == 2)  # of 2 threads
            go_on.set()
            assert all(answer.result(5).exit_code == 0 for answer in answers)
        wait_until(lambda: agent.in_flight == 0)
        assert agent.failures() == []

    def test_calls_that_wait_for_a_thread_are_counted(
        self, path: Path, agent: Agent, backend: FakeBackend
    ) -> None:
        if agent.waiting() is None:
            pytest.skip("this kernel has no unix_diag")
        go_on = threading.Event()
        backend.before = lambda: go_on.wait(10) and None
        with ThreadPoolExecutor(5) as pool:
            answers = [pool.submit(add, path) for _ in range(5)]
            wait_until(lambda: agent.waiting() == 3)
            assert agent.in_flight == 2
            go_on.set()
            assert all(answer.result(5).exit_code == 0 for answer in answers)
        assert agent.waiting() == 0

    def test_calls_whose_callers_are_gone_are_not_worked_off(
        self, path: Path, agent: Agent, backend: FakeBackend
    ) -> None:
        go_on = threading.Event()
        backend.before = lambda: go_on.wait(10) and None
        with ThreadPoolExecutor(3) as pool, capture_logs() as logs:
            begun = [pool.submit(add, path) for _ in range(2)]
            wait_until(lambda: agent.in_flight == 2)
            for _ in range(20):  # as a burst whose time is over
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
                    caller.connect(str(path))
                    caller.sendall(Request(environment(), MESHED).encode())
            last = pool.submit(add, path)
            go_on.set()
            assert last.result(5).exit_code == 0
            assert all(answer.result(5).exit_code == 0 for answer in begun)
        assert len(backend.applied) == 3
        assert sum("its caller is gone" in entry["event"] for entry in logs) == 20

    def test_a_socket_that_was_removed_needs_a_new_start(self, path: Path, agent: Agent) -> None:
        path.unlink()
        assert agent.failures() == [f"there is no socket at {path} any more"]
        assert agent.problems() == agent.failures()

    def test_one_that_was_taken_over_is_alive_and_says_why_it_is_not_ready(
        self, path: Path, agent: Agent, backend: FakeBackend
    ) -> None:
        later = Agent(AgentSettings(path, threads=1), backend, KnownPods(), Metrics())
        later.start()
        assert agent.failures() == []
        assert agent.problems() == [f"a later agent answers the calls at {path}"]
        assert (agent.is_superseded(), later.is_superseded()) == (True, False)
        later.stop()

    def test_one_whose_successor_was_killed_needs_a_new_start(
        self, path: Path, agent: Agent
    ) -> None:
        """Nobody answers then, and the successor may never come back: an upgrade taken back."""
        with socket.socket(socket.AF_UNIX) as later:
            later.bind(f"{path}.later")
            later.listen()
            Path(f"{path}.later").rename(path)
            assert agent.failures() == []
        assert agent.failures() == [f"the later agent that took {path} over is gone"]

    def test_one_that_has_not_started_or_has_ended_is_not_ready(
        self, path: Path, agent: Agent, backend: FakeBackend
    ) -> None:
        agent.stop()
        assert agent.problems() == [f"calls are not answered at {path}"]
        fresh = Agent(AgentSettings(path), backend, KnownPods(), Metrics())
        assert fresh.problems() == [f"calls are not answered at {path}"]

    def test_no_thread_stays_behind_where_not_all_may_start(
        self, tmp_path: Path, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        started: list[threading.Thread] = []
        start = threading.Thread.start

        def limited(thread: threading.Thread) -> None:
            if len(started) == 2:
                raise RuntimeError("can't start new thread")
            start(thread)
            started.append(thread)

        monkeypatch.setattr(threading.Thread, "start", limited)
        agent = Agent(AgentSettings(tmp_path / "a.sock"), backend, KnownPods(), Metrics())
        with pytest.raises(AgentError, match=r"cannot start 8 threads: .*pids"):
            agent.start()
        assert [thread.is_alive() for thread in started] == [False, False]
        assert list(tmp_path.iterdir()) == []

    def test_a_log_that_nobody_reads_ends_no_thread(
        self, path: Path, agent: Agent, backend: FakeBackend
    ) -> None:
        def broken(*_: object) -> NoReturn:
            raise BrokenPipeError

        processors = structlog.get_config()["processors"]
        structlog.configure(processors=[broken])
        try:
            assert [add(path).exit_code for _ in range(4)] == [0] * 4
            backend.failure = RuntimeError("bug")
            assert [add(path).exit_code for _ in range(4)] == [1] * 4
        finally:
            structlog.configure(processors=processors)
        assert agent.is_ready()


class TestAnswers:
    def test_an_add_is_answered_logged_and_counted(
        self, path: Path, backend: FakeBackend, metrics: Metrics
    ) -> None:
        with capture_logs() as logs:
            response = add(path)
            wait_until(lambda: bool(logs))
        assert json.loads(response.stdout) == RESULT
        assert backend.applied == [REDIRECT]
        [entry] = logs
        assert (entry["event"], entry["pod"]) == ("call answered", "shop/web-0")
        assert (entry["decision"], entry["reason"]) == ("redirected", "redirect-annotation")
        assert entry["ms"] >= entry["rulesMs"] >= 0
        counted = {"command": "ADD", "result": "redirected"}
        assert sample(metrics, "linkerd_cni_requests_total", **counted) == 1
        assert sample(metrics, "linkerd_cni_request_duration_seconds_count", command="ADD") == 1
        labels = {"backend": "fake", "command": "ADD"}
        assert sample(metrics, "linkerd_cni_rules_duration_seconds_count", **labels) == 1

    def test_a_bug_fails_one_pod_and_the_agent_lives_on(
        self, path: Path, backend: FakeBackend, agent: Agent
    ) -> None:
        backend.failure = RuntimeError("bug")
        with capture_logs() as logs:
            errors = [json.loads(add(path).stdout) for _ in range(3)]
            wait_until(lambda: len(logs) == 6)
        assert {error["code"] for error in errors} == {999}
        assert "shop/web-0" in errors[0]["msg"]
        assert sum(entry.get("exc_info", False) for entry in logs) == 3
        backend.failure = None
        assert add(path).exit_code == 0
        assert agent.is_ready()

    def test_an_answer_that_did_not_arrive_is_logged_with_its_pod(
        self, path: Path, backend: FakeBackend, metrics: Metrics
    ) -> None:
        caller = socket.socket(socket.AF_UNIX)
        backend.before = caller.close
        with capture_logs() as logs, Path("/dev/null").open() as netns:
            caller.connect(str(path))
            socket.send_fds(caller, [Request(environment(), MESHED).encode()], [netns.fileno()])
            wait_until(lambda: bool(logs))
        [entry] = logs
        assert (entry["pod"], entry["decision"]) == ("shop/web-0", "failed")
        assert entry["reason"] == "not-delivered"
        assert "the answer (redirected) could not be sent" in entry["error"]
        counted = {"command": "ADD", "result": "failed"}
        assert sample(metrics, "linkerd_cni_requests_total", **counted) == 1

    def test_its_own_netns_is_refused(self, path: Path, backend: FakeBackend) -> None:
        fd = os.open("/proc/self/ns/net", os.O_RDONLY)
        try:
            response = call_agent(path, Request(environment(), MESHED), (fd,))
        finally:
            os.close(fd)
        assert "agent's own network namespace" in json.loads(response.stdout)["msg"]
        assert backend.applied == []

    def test_no_descriptor_is_leaked(self, path: Path) -> None:
        add(path)
        before = open_descriptors()
        for _ in range(20):
            add(path)
        wait_until(lambda: open_descriptors() <= before)


class TestBadCallers:
    @pytest.mark.parametrize(
        "data",
        [b"GET / HTTP/1.1\r\n\r\n", b"MGRQ\0\0\0\1\xff\xff\xff\xff\0\0\0\0", b"MGRQ"],
    )
    def test_garbage_is_refused_and_the_next_call_is_answered(
        self, path: Path, data: bytes, metrics: Metrics
    ) -> None:
        with capture_logs() as logs:
            with socket.socket(socket.AF_UNIX) as caller:
                caller.connect(str(path))
                caller.sendall(data)
                caller.shutdown(socket.SHUT_WR)
                assert received(caller) == b""
            wait_until(lambda: bool(logs))
        assert logs[0]["event"] == "call not answered"
        assert sample(metrics, "linkerd_cni_connections_refused_total") == 1
        assert add(path).exit_code == 0

    def test_silent_callers_hold_no_thread_beyond_the_deadline(self, path: Path) -> None:
        callers = [socket.socket(socket.AF_UNIX) for _ in range(4)]
        for caller in callers:
            caller.connect(str(path))
        assert add(path).exit_code == 0
        for caller in callers:
            caller.close()

    def test_several_descriptors_are_refused_and_closed(self, path: Path) -> None:
        add(path)
        before = open_descriptors()
        fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(3)]
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(path))
            socket.send_fds(caller, [Request(environment(), MESHED).encode()], fds)
            assert received(caller) == b""
        for fd in fds:
            os.close(fd)
        wait_until(lambda: open_descriptors() <= before)


@pytest.mark.parametrize("calls", [1, 5])
def test_stopping_finishes_what_was_begun_and_what_waits_for_a_thread(
    path: Path, agent: Agent, backend: FakeBackend, calls: int
) -> None:
    begun, go_on = threading.Semaphore(0), threading.Event()

    def slow() -> None:
        begun.release()
        assert go_on.wait(10)

    backend.before = slow
    with ThreadPoolExecutor(calls + 1) as pool:
        answers = [pool.submit(add, path) for _ in range(calls)]
        assert all(begun.acquire(timeout=5) for _ in range(min(calls, 2)))  # as many as threads
        wait_until(lambda: agent.waiting() in (None, max(0, calls - 2)))
        stopped = pool.submit(agent.stop)
        wait_until(lambda: not agent.is_ready())
        go_on.set()
        assert [answer.result(5).exit_code for answer in answers] == [0] * calls
        stopped.result(5)


def test_stopping_does_not_wait_for_ever_for_threads_that_are_stuck(
    path: Path, agent: Agent, backend: FakeBackend
) -> None:
    go_on = threading.Event()
    backend.before = lambda: go_on.wait(10) and None
    with ThreadPoolExecutor(4) as pool, capture_logs() as logs:
        answers = [pool.submit(add, path) for _ in range(3)]
        wait_until(lambda: agent.in_flight == 2 and agent.waiting() in (None, 1))
        stopped = pool.submit(agent.stop)
        wait_until(lambda: any("left unanswered" in entry["event"] for entry in logs))
        go_on.set()
        stopped.result(5)
        failures = [failure for answer in answers if (failure := answer.exception(5))]
    [failure] = failures  # the two that were begun are answered
    assert isinstance(failure, (ConnectionResetError, ProtocolError))


@contextmanager
def agent_process(path: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """``meshgraft cni-agent`` as a process, once it serves."""
    command = [sys.executable, "-m", "meshgraft", "cni-agent", "--socket", str(path), *options]
    # As anywhere but in a pod, where the agent would ask that cluster.
    env = {key: text for key, text in os.environ.items() if key != "KUBERNETES_SERVICE_HOST"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env) as process:
        try:
            wait_until(lambda: path.exists() or process.poll() is not None, 20)
            yield process
        finally:
            process.kill()


def netns_names(count: int) -> list[str]:
    return [f"mg-agent-{os.getpid()}-{number}" for number in range(count)]


@pytest.fixture
def namespaces() -> Iterator[list[str]]:
    """24 network namespaces, under /run/netns."""
    names = netns_names(24)
    try:
        for name in names:
            subprocess.run(["ip", "netns", "add", name], check=True, timeout=10)
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, timeout=10)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes network namespaces")
class TestWholeChain:
    """The real program, the real agent, real namespaces, the kernel's rules."""

    @pytest.mark.parametrize("mode", ["nft", "legacy"])
    def test_pods_in_parallel_are_redirected_and_checked(
        self, tmp_path: Path, namespaces: list[str], mode: str
    ) -> None:
        socket_path = tmp_path / "agent.sock"
        environments = {
            command: [
                environment(command, f"shop/{name}", CNI_NETNS=f"/run/netns/{name}")
                for name in namespaces
            ]
            for command in ("ADD", "CHECK", "STATUS")
        }

        def call(env: dict[str, str]) -> tuple[int, bytes, str]:
            conf = netconf({ANNOTATION: REDIRECT.to_annotation()}, cniVersion="1.1.0")
            done = run_program(env, conf, socket_path)
            return done.exit_code, done.stdout, done.stderr

        with (
            agent_process(socket_path, "--iptables-mode", mode) as process,
            ThreadPoolExecutor(24) as pool,
        ):
            before = call(environments["CHECK"][0])
            added = list(pool.map(call, environments["ADD"]))
            checked = list(pool.map(call, environments["CHECK"]))
            status = call(environments["STATUS"][0])
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=10)
            after = call(environments["ADD"][0])
        assert json.loads(before[1])["code"] == 100
        for name, (exit_code, stdout, stderr) in zip(namespaces, added, strict=True):
            assert exit_code == 0, stderr
            assert json.loads(stdout) == {**RESULT}
            assert f'linkerd-cni: msg="redirected" pod=shop/{name} backend={mode}' in stderr
        assert checked == [(0, b"", "")] * len(namespaces)
        assert status == (0, b"", "")
        assert process.returncode == 0
        assert not socket_path.exists()
        assert json.loads(after[1])["code"] == 11

    def test_it_serves_within_seconds_and_logs_each_call_as_json(
        self, tmp_path: Path, namespaces: list[str]
    ) -> None:
        objects = tmp_path / "objects.json"
        metadata = {"name": "web-0", "namespace": "shop"}
        containers = [{"name": "app"}, {"name": "linkerd-proxy"}]
        pod = {"kind": "Pod", "metadata": metadata, "spec": {"containers": containers}}
        objects.write_text(json.dumps({"kind": "List", "items": [pod]}))
        socket_path = tmp_path / "agent.sock"
        started = time.monotonic()
        with agent_process(socket_path, "--offline-objects", str(objects)) as process:
            seconds = time.monotonic() - started
            env = environment(CNI_NETNS=f"/run/netns/{namespaces[0]}")
            known = run_program(env, netconf(), socket_path)
            unknown = run_program({**env, "CNI_ARGS": "K8S_POD_NAMESPACE=a;K8S_POD_NAME=b"},
                                  netconf(), socket_path)  # fmt: skip
            process.send_signal(signal.SIGINT)
            log = process.communicate(timeout=10)[1]
        assert seconds < 10
        assert known.exit_code == 0, known.stderr
        assert unknown.error["code"] == 11
        entries = [json.loads(line) for line in log.splitlines()]
        answered = [entry for entry in entries if entry["msg"] == "call answered"]
        assert [(entry["pod"], entry["decision"]) for entry in answered] == [
            ("shop/web-0", "redirected"),
            ("a/b", "failed"),
        ]


class TestSignal:
    """SIGTERM ends it whichever thread the kernel gives it to."""

    def test_a_thread_other_than_the_main_one(self, tmp_path: Path) -> None:
        with agent_process(tmp_path / "agent.sock") as process:
            tasks = Path(f"/proc/{process.pid}/task")
            # The socket is there before the last thread is: then the main one waits.
            wait_until(lambda: "futex" in (tasks / str(process.pid) / "wchan").read_text(), 10)
            other = max(int(task.name) for task in tasks.iterdir())
            assert other != process.pid
            tgkill = ctypes.CDLL(None, use_errno=True).tgkill
            assert tgkill(process.pid, other, signal.SIGTERM) == 0, os.strerror(ctypes.get_errno())
            process.communicate(timeout=10)
        assert process.returncode == 0


LINKERDS = {"linkerd.io/proxy-version": "stable", "linkerd.io/trust-root-sha256": "0"}
"""What the runtime hands over of a pod that Linkerd's injector meshed."""


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes network namespaces")
class TestApiServer:
    """The real program and agent, on a cluster that comes and goes."""

    def test_a_pod_of_linkerds_injector_starts_as_soon_as_the_api_server_is_there(
        self, tmp_path: Path, make_netns: Callable[[], Netns]
    ) -> None:
        meshed, ours, other = make_netns(), make_netns(), make_netns()
        socket_path = tmp_path / "agent.sock"

        async def add(netns: Netns, conf: bytes, pod: str = "shop/web-0") -> Finished:
            env = environment(pod=pod, CNI_NETNS=f"/run/netns/{netns.name}")
            return await asyncio.to_thread(run_program, env, conf, socket_path)

        async def within(server: FakeApiServer) -> None:
            linkerds = netconf(LINKERDS)
            first = await add(meshed, linkerds)
            assert first.exit_code == 0, first.stderr
            rules = nft_rules(meshed)
            assert "3306" in rules  # the namespace's
            assert "9000" in rules  # the pod's

            await server.stop()
            away = await add(other, linkerds, "shop/web-1")
            assert away.error["code"] == 11
            assert "shop/web-1" in away.error["msg"]
            assert f"the API server at {server.url} does not answer" in away.error["msg"]
            assert nft_rules(other) == ""
            # Who brings everything along, or is in an excluded namespace, needs no API server.
            assert (await add(ours, MESHED, "shop/ours-0")).exit_code == 0
            assert "4143" in nft_rules(ours)
            assert (await add(other, linkerds, "kube-system/dns-0")).exit_code == 0

            await server.start()
            back = await add(other, linkerds, "shop/web-1")
            assert back.exit_code == 0, back.stderr
            assert "4143" in nft_rules(other)

        async def cluster() -> None:
            async with asyncio.timeout(60), running() as server:
                server.put("shop", **{"config.linkerd.io/skip-outbound-ports": "3306"})
                own = {"config.linkerd.io/skip-inbound-ports": "9000"}
                for name in ("web-0", "web-1"):
                    server.put_pod(f"shop/{name}", "app", "linkerd-proxy", annotations=own)
                options = ["--kubeconfig", str(server.kubeconfig(tmp_path)), "--node-name", "n1"]
                with agent_process(socket_path, *options) as process:
                    await until(lambda: server.watching, 20)
                    await within(server)
                    process.send_signal(signal.SIGTERM)
                    await asyncio.to_thread(process.communicate, timeout=10)
                assert process.returncode == 0
                assert not server.count(lambda asked: "ours-0" in asked.path)
                assert not server.count(lambda asked: "kube-system" in asked.path)

        asyncio.run(cluster())


def nft_rules(netns: Netns) -> str:
    """The rules in a netns, as nft writes them; empty where there are none."""
    command = ["ip", "netns", "exec", netns.name, "nft", "list", "ruleset"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--kubeconfig", "/nonexistent"), "/nonexistent: cannot be read: No such file"),
        (("--kubeconfig", "a", "--offline-objects", "b"), "exclude each other"),
    ],
)
def test_a_cluster_that_cannot_be_meant_is_a_sentence(
    tmp_path: Path, options: tuple[str, ...], text: str
) -> None:
    with agent_process(tmp_path / "agent.sock", *options) as process:
        stderr = process.communicate(timeout=20)[1]
    assert process.returncode == 1
    assert text in stderr
    assert "Traceback" not in stderr


def test_a_bad_option_is_a_sentence(tmp_path: Path) -> None:
    with agent_process(tmp_path / "agent.sock", "--offline-objects", "/nonexistent") as process:
        stderr = process.communicate(timeout=20)[1]
    assert process.returncode == 1
    assert "/nonexistent: No such file or directory" in stderr
    assert "Traceback" not in stderr
