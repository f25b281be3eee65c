"""Pods with the longest annotations there may be wait for each other, and no other pod for them."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cni_plugin.agent import server as agent_module
from cni_plugin.agent.metrics import Metrics
from cni_plugin.agent.protocol import ProtocolError, Request
from cni_plugin.agent.server import LARGE_BYTES, Agent, AgentSettings
from cni_plugin.dataplane.nft import NftBackend
from cni_plugin.pods.source import KnownPods
from meshgraft.lab.netns import Netns
from tests.cni_plugin.agent.test_agent import agent_process
from tests.cni_plugin.dataplane.test_nft_sets import long_redirect
from tests.cni_plugin.shim_support import (
    REDIRECT,
    FakeBackend,
    call_agent,
    environment,
    netconf,
    wait_until,
)
from vocabulary.annotations.redirect import ANNOTATION, Redirect

LARGE = 60


def ask(path: Path, redirect: Redirect, netns: Netns) -> tuple[int, float]:
    """ADD; its exit code and seconds."""
    stdin = netconf({ANNOTATION: redirect.to_annotation()})
    started = time.monotonic()
    answer = call_agent(path, Request(environment(), stdin), (netns.fd,))
    return answer.exit_code, time.monotonic() - started


@pytest.mark.root
def test_an_ordinary_pod_does_not_wait_for_them(
    tmp_path: Path, make_netns: Callable[[], Netns]
) -> None:
    """It took 1.2 s when all eight threads worked at the large ones."""
    path = tmp_path / "agent.sock"
    crowd, ordinary = [make_netns() for _ in range(LARGE)], [make_netns() for _ in range(20)]
    with agent_process(path), ThreadPoolExecutor(LARGE) as pool:
        asked = [
            pool.submit(ask, path, long_redirect(2 * number), netns)
            for number, netns in enumerate(crowd)
        ]
        time.sleep(0.05)
        waited = [ask(path, REDIRECT, netns) for netns in ordinary]
        assert not all(each.done() for each in asked), "the crowd was served before it was one"
        assert Counter(each.result()[0] for each in asked) == {0: LARGE}
    assert {code for code, _ in waited} == {0}
    assert sorted(seconds for _, seconds in waited)[-3] < 0.1
    backend = NftBackend()
    for number, netns in enumerate(crowd):
        assert backend.difference(netns.fd, long_redirect(2 * number)) is None


class TestOneAfterTheOther:
    @pytest.fixture
    def backend(self) -> FakeBackend:
        return FakeBackend()

    @pytest.fixture
    def agent(self, tmp_path: Path, backend: FakeBackend) -> Iterator[Agent]:
        settings = AgentSettings(tmp_path / "agent.sock", threads=2, deadline_seconds=0.5)
        agent = Agent(settings, backend, KnownPods(), Metrics())
        agent.start()
        yield agent
        agent.stop()

    @staticmethod
    def large() -> Request:
        stdin = netconf({ANNOTATION: REDIRECT.to_annotation(), "note": "x" * LARGE_BYTES})
        return Request(environment(), stdin)

    def test_they_keep_no_thread_from_others(
        self, agent: Agent, backend: FakeBackend, tmp_path: Path, netns: Netns
    ) -> None:
        go_on, path = threading.Event(), tmp_path / "agent.sock"
        backend.before = lambda: threading.current_thread().name == "cni-large" and go_on.wait(10)
        with ThreadPoolExecutor(10) as pool:
            asked = [pool.submit(call_agent, path, self.large(), (netns.fd,)) for _ in range(10)]
            wait_until(lambda: agent.in_flight == 10)
            assert ask(path, REDIRECT, netns)[0] == 0
            assert not any(each.done() for each in asked)
            go_on.set()
            assert {each.result(5).exit_code for each in asked} == {0}

    def test_of_more_than_may_wait_the_last_are_turned_away(
        self,
        agent: Agent,
        backend: FakeBackend,
        tmp_path: Path,
        netns: Netns,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        go_on, path = threading.Event(), tmp_path / "agent.sock"
        backend.before = lambda: go_on.wait(10)
        monkeypatch.setattr(agent_module, "MOST_LARGE_BYTES", 2 * len(self.large().stdin))
        with ThreadPoolExecutor(3) as pool:
            first = pool.submit(call_agent, path, self.large(), (netns.fd,))
            wait_until(lambda: bool(agent._busy))
            asked = [pool.submit(call_agent, path, self.large(), (netns.fd,)) for _ in range(2)]
            # Read and in the row, both: a call that is accepted only may yet be overtaken.
            wait_until(lambda: agent._large.qsize() == 2)
            with pytest.raises((ProtocolError, ConnectionError)):
                call_agent(path, self.large(), (netns.fd,))
            go_on.set()
            assert {each.result(5).exit_code for each in (first, *asked)} == {0}
        assert call_agent(path, self.large(), (netns.fd,)).exit_code == 0
