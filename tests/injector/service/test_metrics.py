"""Metrics: Linkerd's names, bounded labels, and what operators alert on."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from injector.core.model import Outcome, Owner
from injector.core.skips import SkipReason
from injector.service.metrics import MAX_NAMESPACES, OTHER, Metrics

REQUESTS = "proxy_inject_admission_requests_total"
RESPONSES = "proxy_inject_admission_responses_total"
INJECTED = Outcome({}, injected=True, warnings=("a", "b"), annotation_at="namespace")
SKIPPED = Outcome({}, injected=False, reasons=(SkipReason.HOST_NETWORK, SkipReason.ENABLE_ABSENT))


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("1.2.3")


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_an_injection_counts_as_linkerds(metrics: Metrics) -> None:
    metrics.answered("shop", Owner("deployment", "web"), INJECTED)
    asked = {"owner_kind": "deployment", "namespace": "shop", "annotation_at": "namespace"}
    assert value(metrics, REQUESTS, **asked) == 1
    assert value(metrics, RESPONSES, **asked, skip="false", skip_reason="") == 1
    assert value(metrics, "proxy_inject_admission_warnings_total") == 2


def test_a_skip_counts_with_all_its_reasons(metrics: Metrics) -> None:
    metrics.answered("shop", Owner("pod", "x"), SKIPPED)
    reasons = "host_network_enabled,injection_enable_annotation_absent"
    labels = {"owner_kind": "pod", "namespace": "shop", "annotation_at": ""}
    assert value(metrics, RESPONSES, **labels, skip="true", skip_reason=reasons) == 1


def test_owner_kinds_that_anyone_may_invent_share_one_label(metrics: Metrics) -> None:
    for number in range(50):
        metrics.answered("shop", Owner(f"kind{number}", "x"), INJECTED)
    labels = {"owner_kind": OTHER, "namespace": "shop", "annotation_at": "namespace"}
    assert value(metrics, REQUESTS, **labels) == 50


def test_namespaces_beyond_the_bound_share_one_label(metrics: Metrics) -> None:
    for number in range(MAX_NAMESPACES + 7):
        metrics.answered(f"ns-{number}", Owner("pod", "x"), INJECTED)
    metrics.answered("ns-0", Owner("pod", "x"), INJECTED)
    labels = {"owner_kind": "pod", "annotation_at": "namespace"}
    assert value(metrics, REQUESTS, namespace=OTHER, **labels) == 7
    assert value(metrics, REQUESTS, namespace="ns-0", **labels) == 2


def test_errors_time_expiry_and_build_are_exposed(metrics: Metrics) -> None:
    metrics.failed("namespace_unknown")
    metrics.took(0.003)
    metrics.certificate_expires(datetime(2027, 1, 1, tzinfo=UTC))
    text, content_type = metrics.render("")
    lines = text.decode().splitlines()
    assert content_type.startswith("text/plain")
    assert 'proxy_inject_admission_errors_total{cause="namespace_unknown"} 1.0' in lines
    assert 'proxy_inject_admission_duration_seconds_bucket{le="0.0025"} 0.0' in lines
    assert 'proxy_inject_admission_duration_seconds_bucket{le="0.005"} 1.0' in lines
    assert value(metrics, "proxy_inject_certificate_expiry_timestamp_seconds") == 1798761600
    assert any(line.startswith("meshgraft_build_info{") and '"1.2.3"' in line for line in lines)


def test_a_scraper_may_ask_for_open_metrics(metrics: Metrics) -> None:
    text, content_type = metrics.render("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert text.endswith(b"# EOF\n")
