"""The pages that show what the agent counts, and whether it is well."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from cni_plugin.agent.metrics import Metrics
from process.metrics_server import MAX_CONNECTIONS, MetricsServer
from tests.cni_plugin.shim_support import wait_until


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
class TestServer:
    @pytest.fixture
    def missing(self) -> list[str]:
        return []

    @pytest.fixture
    def broken(self) -> list[str]:
        return []

    @pytest.fixture
    def url(
        self, host: str, metrics: Metrics, missing: list[str], broken: list[str]
    ) -> Iterator[str]:
        server = MetricsServer(host, 0, metrics, live=lambda: broken, ready=lambda: missing)
        server.start()
        yield f"http://{f'[{host}]' if ':' in host else host}:{server.port}"
        server.stop()

    def test_it_shows_what_was_counted(self, url: str, metrics: Metrics) -> None:
        metrics.refused()
        status, text = get(f"{url}/metrics")
        assert status == 200
        assert "linkerd_cni_connections_refused_total 1.0" in text

    def test_it_is_ready_unless_something_is_missing_and_says_what(
        self, url: str, missing: list[str]
    ) -> None:
        assert get(f"{url}/readyz") == (200, "ok\n")
        missing += ["no network configuration yet", "no socket"]
        assert get(f"{url}/readyz?verbose") == (503, "no network configuration yet\nno socket\n")
        assert get(f"{url}/livez") == (200, "ok\n")

    def test_it_is_alive_unless_something_is_broken(self, url: str, broken: list[str]) -> None:
        broken.append("2 of 8 threads have ended")
        assert get(f"{url}/livez") == (503, "2 of 8 threads have ended\n")

    def test_it_has_nothing_else(self, url: str) -> None:
        status, text = get(f"{url}/")
        assert status == 404
        assert "/metrics" in text


def test_no_name_is_looked_up_as_dns_may_wait_for_this_agent(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(name: str = "") -> str:
        raise AssertionError(f"looked up {name!r}")

    monkeypatch.setattr(socket, "getfqdn", asked)
    MetricsServer("127.0.0.1", 0, metrics, live=list, ready=list).stop()


@pytest.mark.timeout(10)
def test_a_server_that_never_started_can_be_stopped(metrics: Metrics) -> None:
    server = MetricsServer("127.0.0.1", 0, metrics, live=list, ready=list)
    server.stop()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", server.port), timeout=5)


def test_an_address_in_use_is_an_error_at_once(metrics: Metrics) -> None:
    server = MetricsServer("127.0.0.1", 0, metrics, live=list, ready=list)
    server.start()
    with pytest.raises(OSError, match="in use"):
        MetricsServer("127.0.0.1", server.port, metrics, live=list, ready=list)
    server.stop()


def test_connections_that_say_nothing_take_neither_the_agents_descriptors_nor_its_page(
    metrics: Metrics,
) -> None:
    """Any pod reaches this port, and the calls of the plugin need descriptors too."""
    server = MetricsServer("127.0.0.1", 0, metrics, live=list, ready=list)
    server.start()
    silent: list[socket.socket] = []
    try:
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(3 * MAX_CONNECTIONS):
            silent.append(socket.create_connection(("127.0.0.1", server.port), timeout=5))
        # From another address, as a probe of the kubelet comes.
        probe = socket.create_connection(("127.0.0.1", server.port), 5, ("127.0.0.2", 0))
        silent.append(probe)
        for _ in range(2 * MAX_CONNECTIONS):
            silent.append(socket.create_connection(("127.0.0.1", server.port), timeout=5))
        probe.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
        assert probe.makefile("rb").read().endswith(b"\r\n\r\nok\n")
        assert silent[0].recv(1) == b""  # the oldest was closed for a newer one
        wait_until(
            lambda: (
                len(list(Path("/proc/self/fd").iterdir())) - before
                <= len(silent) + MAX_CONNECTIONS + 1
            )
        )
    finally:
        for each in silent:
            each.close()
        server.stop()
