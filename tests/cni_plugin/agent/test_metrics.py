"""What the agent counts."""

from __future__ import annotations

import pytest

from cni_plugin.agent.handler import Answer
from cni_plugin.agent.metrics import InstallMetrics, Metrics
from cni_plugin.agent.protocol import Response


def answer(command: str = "ADD", rules_seconds: float | None = None) -> Answer:
    return Answer(Response(), command, "redirected", rules_seconds=rules_seconds)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


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


@pytest.mark.parametrize("waiting", [3, 0, None])
def test_calls_are_shown_as_they_are_at_the_scrape(metrics: Metrics, waiting: int | None) -> None:
    in_flight = [0]
    metrics.show_calls(lambda: in_flight[0], lambda: waiting)
    in_flight[0] = 5
    value = metrics.registry.get_sample_value
    assert value("linkerd_cni_requests_in_flight") == 5
    assert value("linkerd_cni_requests_waiting") == waiting


def test_the_installation_is_counted_only_where_there_is_an_installer(metrics: Metrics) -> None:
    value = metrics.registry.get_sample_value
    assert value("linkerd_cni_install_ready") is None
    observer = InstallMetrics(metrics.registry)
    assert value("linkerd_cni_install_ready") == 0
    observer.looked(ready=True, changes=2, problems=0)
    observer.looked(ready=True, changes=0, problems=1)
    assert value("linkerd_cni_install_ready") == 1
    assert value("linkerd_cni_install_problems") == 1
    assert value("linkerd_cni_install_changes_total") == 2
