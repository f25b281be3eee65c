"""What the agent counts, and the pages that show it."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from cni_plugin.handler import Answer
from cni_plugin.metrics import Metrics, MetricsServer
from cni_plugin.protocol import Response


def answer(command: str = "ADD", rules_seconds: float | None = None) -> Answer:
    return Answer(Response(), command, "redirected", rules_seconds=rules_seconds)


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


def test_labels_are_bounded_whatever_the_command_says(metrics: Metrics) -> None:
    for command in ("ADD", "add", "x" * 100, ""):
        metrics.answered(answer(command), "nft", 0.01)
    text = metrics.expose("")[0].decode()
    assert 'linkerd_cni_requests_total{command="ADD",result="redirected"} 1.0' in text
    assert 'linkerd_cni_requests_total{command="other",result="redirected"} 3.0' in text


def test_the_time_for_rules_is_counted_only_where_rules_were_touched(metrics: Metrics) -> None:
    metrics.answered(answer(), "nft", 0.01)
    metrics.answered(answer(rules_seconds=0.002), "nft", 0.01)
    labels = {"command": "ADD", "backend": "nft"}
    value = metrics.registry.get_sample_value
    assert value("linkerd_cni_rules_duration_seconds_count", labels) == 1
    assert value("linkerd_cni_rules_duration_seconds_sum", labels) == pytest.approx(0.002)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
class TestServer:
    @pytest.fixture
    def ready(self) -> list[bool]:
        return [True]

    @pytest.fixture
    def url(self, host: str, metrics: Metrics, ready: list[bool]) -> Iterator[str]:
        server = MetricsServer(host, 0, metrics, lambda: ready[0])
        server.start()
        yield f"http://{f'[{host}]' if ':' in host else host}:{server.port}"
        server.stop()

    def test_it_shows_what_was_counted(self, url: str, metrics: Metrics) -> None:
        metrics.refused()
        status, text = get(f"{url}/metrics")
        assert status == 200
        assert "linkerd_cni_connections_refused_total 1.0" in text

    def test_it_is_ready_while_the_agent_is(self, url: str, ready: list[bool]) -> None:
        assert get(f"{url}/readyz")[0] == 200
        ready[0] = False
        assert get(f"{url}/readyz?verbose")[0] == 503
        assert get(f"{url}/livez")[0] == 200

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
    MetricsServer("127.0.0.1", 0, metrics, lambda: True).stop()


@pytest.mark.timeout(10)
def test_a_server_that_never_started_can_be_stopped(metrics: Metrics) -> None:
    server = MetricsServer("127.0.0.1", 0, metrics, lambda: True)
    server.stop()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", server.port), timeout=5)


def test_an_address_in_use_is_an_error_at_once(metrics: Metrics) -> None:
    server = MetricsServer("127.0.0.1", 0, metrics, lambda: True)
    server.start()
    with pytest.raises(OSError, match="in use"):
        MetricsServer("127.0.0.1", server.port, metrics, lambda: True)
    server.stop()
