"""Warnings about pods that do not go together with the proxy that they get."""

from __future__ import annotations

from typing import Any

import pytest

from injector.core.conflicts import conflicts
from injector.core.values import Values
from tests.injector.support import inject, pod, settings

SET = settings(proxy={"uid": 2102, "gid": 2103})


def container(**fields: Any) -> dict[str, Any]:
    return {"name": "app", "image": "a", **fields}


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (
            {"containers": [container(securityContext={"runAsUser": 2102})]},
            [("app", "runAsUser 2102", "proxy-uid")],
        ),
        (
            {"securityContext": {"runAsUser": 2102}, "containers": [container()]},
            [("app", "runAsUser 2102", "proxy-uid")],
        ),
        (
            {
                "securityContext": {"runAsUser": 2102},
                "containers": [container(securityContext={"runAsUser": 1})],
            },
            [],
        ),
        (
            {"containers": [container(securityContext={"runAsGroup": 2103})]},
            [("app", "runAsGroup 2103", "proxy-gid")],
        ),
        (
            {"containers": [container(ports=[{"containerPort": 4143}, {"containerPort": 80}])]},
            [("app", "containerPort 4143", "inbound-port")],
        ),
        (
            {"containers": [container(ports=[{"containerPort": 4191, "protocol": "TCP"}])]},
            [("app", "containerPort 4191", "admin-port")],
        ),
        ({"containers": [container(ports=[{"containerPort": 4143, "protocol": "UDP"}])]}, []),
        (
            {
                "initContainers": [
                    container(name="first", ports=[{"containerPort": 4140}]),
                    container(name="side", restartPolicy="Always", ports=[{"containerPort": 4140}]),
                ],
                "containers": [container()],
            },
            [("side", "containerPort 4140", "outbound-port")],
        ),
        ({"containers": [container(securityContext=None, ports=None)]}, []),
    ],
)
def test_each_names_container_field_and_cure(
    spec: dict[str, Any], said: list[tuple[str, str, str]]
) -> None:
    found = list(conflicts({"spec": spec}, SET))
    assert len(found) == len(said)
    for text, (name, field, cure) in zip(found, said, strict=True):
        assert f'container "{name}" has {field}' in text
        assert f"config.linkerd.io/{cure}" in text
        assert len(text) <= 256


@pytest.mark.parametrize("values", [Values(), settings(proxy={"gid": 0})])
def test_a_group_that_no_rule_is_for_is_no_conflict(values: Values) -> None:
    given = {"spec": {"containers": [container(securityContext={"runAsGroup": 0})]}}
    assert list(conflicts(given, values)) == []


def test_the_annotation_that_is_named_cures_it() -> None:
    given = pod(securityContext={"runAsUser": 2102})
    assert any("runAsUser" in each for each in inject(given).warnings)
    cured = pod({"config.linkerd.io/proxy-uid": "2999"}, securityContext={"runAsUser": 2102})
    assert not any("runAsUser" in each for each in inject(cured).warnings)


LAST = settings(proxy={"nativeSidecar": False})
EARLY = {"name": "early", "image": "a"}


def test_init_containers_before_the_proxy_are_told_where_rules_are_there_before_them() -> None:
    given = {"spec": {"initContainers": [EARLY], "containers": [container()]}}
    last = settings(cniEnabled=True, proxy={"uid": 2102, "nativeSidecar": False})
    (warning,) = conflicts(given, last, "linkerd")
    assert 'initContainers "early" runs before the proxy' in warning
    assert "config.linkerd.io/proxy-enable-native-sidecar" in warning
    assert list(conflicts(given, LAST, "linkerd")) == []
    native = settings(cniEnabled=True, proxy={"nativeSidecar": True})
    assert list(conflicts(given, native, "linkerd")) == []
    cured = {**EARLY, "securityContext": {"runAsUser": 2102}}
    assert list(conflicts({"spec": {"initContainers": [cured]}}, last, "linkerd")) == []


@pytest.mark.parametrize("policy", ["Never", "OnFailure"])
def test_a_pod_that_is_to_end_is_told_of_a_proxy_that_does_not(policy: str) -> None:
    given = {"spec": {"restartPolicy": policy, "containers": [container()]}}
    (warning,) = conflicts(given, LAST, "linkerd")
    assert f"restartPolicy {policy}" in warning
    assert "config.linkerd.io/proxy-enable-native-sidecar" in warning
    assert list(conflicts(given, settings(proxy={"nativeSidecar": True}), "linkerd")) == []
    assert list(conflicts(given, settings(), "node")) == []


def test_tcp_probes_are_told_where_only_linkerds_own_rules_are() -> None:
    probed = container(readinessProbe={"tcpSocket": {"port": 9999}}, livenessProbe=None)
    given = {"spec": {"containers": [probed]}}
    (warning,) = conflicts(given, LAST, "linkerd")
    assert 'container "app" has readinessProbe.tcpSocket on port 9999' in warning
    assert list(conflicts(given, settings(cniEnabled=True), "linkerd")) == []
    assert list(conflicts(given, settings(), "envoy")) == []
