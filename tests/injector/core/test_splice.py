"""Additions land in a new pod in Linkerd's order, and the old pod stays as it was."""

from __future__ import annotations

import copy
from typing import Any, Literal

import pytest

from injector.core.model import Additions, Object
from injector.core.splice import annotate, splice
from tests.injector.support import names, pod


def _given() -> Object:
    return pod(
        {"a": "1"},
        containers=[{"name": "app"}, {"name": "side"}],
        initContainers=[{"name": "setup"}],
        volumes=[{"name": "data"}],
    )


def _additions(position: Literal["native", "first", "last"], **rest: Any) -> Additions:
    return Additions(
        proxy={"name": "proxy"},
        position=position,
        init_containers=({"name": "init"},),
        containers=({"name": "debug"},),
        volumes=({"name": "identity"}, {"name": "token"}),
        annotations={"z": "2", "b": "3"},
        labels={"l": "4"},
        **rest,
    )


@pytest.mark.parametrize(
    ("position", "inits", "containers"),
    [
        ("native", ["init", "proxy", "setup"], ["app", "side", "debug"]),
        ("first", ["setup", "init"], ["proxy", "app", "side", "debug"]),
        ("last", ["setup", "init"], ["app", "side", "debug", "proxy"]),
    ],
)
def test_the_order_is_linkerds(
    position: Literal["native", "first", "last"], inits: list[str], containers: list[str]
) -> None:
    given = _given()
    before = copy.deepcopy(given)
    patched = splice(given, _additions(position))
    assert given == before
    assert names(patched["spec"]["initContainers"]) == inits
    assert names(patched["spec"]["containers"]) == containers
    assert names(patched["spec"]["volumes"]) == ["data", "identity", "token"]
    assert list(patched["metadata"]["annotations"].items()) == [("a", "1"), ("b", "3"), ("z", "2")]
    assert patched["metadata"]["labels"] == {"l": "4"}


def test_what_does_not_change_is_shared() -> None:
    given = _given()
    patched = splice(given, _additions("native"))
    assert patched["spec"]["containers"][0] is given["spec"]["containers"][0]
    assert patched["spec"]["volumes"][0] is given["spec"]["volumes"][0]


@pytest.mark.parametrize("absent", [None, []])
def test_lists_that_are_absent_come_into_being_only_where_needed(absent: Any) -> None:
    given = pod(volumes=absent, initContainers=absent)
    patched = splice(given, Additions(proxy={"name": "proxy"}, position="last"))
    assert names(patched["spec"]["containers"]) == ["app", "proxy"]
    assert patched["spec"]["volumes"] is absent
    assert patched["spec"]["initContainers"] is absent
    native = splice(pod(), Additions(proxy={"name": "proxy"}))
    assert names(native["spec"]["initContainers"]) == ["proxy"]


def test_env_goes_to_the_pods_own_containers_that_lack_it() -> None:
    variables = ({"name": "A", "value": "ours"}, {"name": "B", "value": "ours"})
    given = _given()
    given["spec"]["containers"][0]["env"] = [{"name": "A", "value": "own"}]
    patched = splice(given, _additions("first", container_env=variables))
    proxy, app, side, debug = patched["spec"]["containers"]
    assert [item["value"] for item in app["env"]] == ["own", "ours"]
    assert side["env"] == list(variables)
    assert patched["spec"]["initContainers"][0]["env"] == list(variables)
    assert "env" not in proxy
    assert "env" not in debug
    assert given["spec"]["containers"][0]["env"] == [{"name": "A", "value": "own"}]


def test_nothing_to_annotate_gives_the_object_itself() -> None:
    given = pod()
    assert annotate(given, {}) is given


@pytest.mark.parametrize("metadata", [None, {}, {"annotations": None}])
def test_annotating_where_there_were_none(metadata: Any) -> None:
    assert annotate({"metadata": metadata}, {"k": "v"})["metadata"] == {"annotations": {"k": "v"}}
