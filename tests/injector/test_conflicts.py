"""Warnings about pods that do not go together with the proxy that they get."""

from __future__ import annotations

from typing import Any

import pytest

from injector.conflicts import conflicts
from injector.values import Values
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
