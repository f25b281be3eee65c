"""Malformed objects: the field is named; what Go writes, nulls included, is well-formed."""

from __future__ import annotations

from typing import Any

import pytest

from injector.core.schema import malformed
from tests.injector.support import REVIEWS, request


def pod(**spec: Any) -> dict[str, Any]:
    return {"kind": "Pod", "spec": {"containers": [{"name": "app", "image": "x"}], **spec}}


def container(**fields: Any) -> dict[str, Any]:
    return pod(containers=[{"name": "app", **fields}])


@pytest.mark.parametrize("name", REVIEWS)
def test_what_a_real_api_server_sends_is_well_formed(name: str) -> None:
    obj = request(name)["object"]
    assert malformed(obj["kind"], obj) is None


@pytest.mark.parametrize(
    "obj",
    [
        pod(containers=None, initContainers=None, volumes=None),
        container(ports=None, env=None, volumeMounts=None, securityContext=None),
        container(securityContext={"capabilities": {"add": None}}),
        container(readinessProbe={"httpGet": {"port": "http"}}, future={"x": [1]}),
    ],
)
def test_empty_lists_may_be_null_and_unknown_fields_do_no_harm(obj: dict[str, Any]) -> None:
    assert malformed("Pod", obj) is None


@pytest.mark.parametrize(
    ("kind", "obj", "field"),
    [
        ("Pod", {}, "spec"),
        ("Pod", {"spec": None}, "$.spec"),
        ("Pod", pod(containers={}), "$.spec.containers"),
        ("Pod", pod(initContainers=[{}]), "$.spec.initContainers[0]"),
        ("Pod", pod(hostNetwork="yes"), "$.spec.hostNetwork"),
        ("Pod", pod(volumes=[{"name": 1}]), "$.spec.volumes[0].name"),
        ("Pod", container(image=None), "$.spec.containers[0].image"),
        ("Pod", container(ports=[{}]), "$.spec.containers[0].ports[0]"),
        ("Pod", container(env=["A=b"]), "$.spec.containers[0].env[0]"),
        ("Service", {"spec": {"ports": [{"port": "http"}]}}, "$.spec.ports[0].port"),
    ],
)
def test_the_field_that_is_wrong_is_named(kind: str, obj: dict[str, Any], field: str) -> None:
    wrong = malformed(kind, obj)
    assert wrong is not None
    assert field in wrong


def test_other_kinds_are_not_looked_into() -> None:
    assert malformed("Deployment", {"spec": 7}) is None
