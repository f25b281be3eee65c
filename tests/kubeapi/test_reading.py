"""Objects read for people's commands: absent, denied, busy, in pages."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from kubeapi import reading
from kubeapi.client import ApiServer, ApiServerError
from kubeapi.config import load_config
from kubeapi.reading import DEPLOYMENTS, NODES, PODS, Kind
from tests.kubeapi.fake_apiserver import Fault
from tests.kubeapi.fake_cluster import FakeCluster, running_cluster

Work = Callable[[FakeCluster, ApiServer], Awaitable[None]]


@pytest.fixture
def within(tmp_path: Path) -> Callable[..., None]:
    """Runs a test's coroutine beside a cluster."""

    def run(work: Work, *objects: Any, **given: Any) -> None:
        async def test() -> None:
            async with running_cluster(*objects, **given) as cluster:
                api = ApiServer(load_config(cluster.kubeconfig(tmp_path)))
                try:
                    await work(cluster, api)
                finally:
                    await api.close()

        asyncio.run(test())

    return run


def deployments(count: int) -> list[dict[str, Any]]:
    return [
        {"kind": "Deployment", "metadata": {"name": f"d{number}", "namespace": "a"}}
        for number in range(count)
    ]


def test_what_is_not_there_is_none(within: Callable[..., None]) -> None:
    async def work(cluster: FakeCluster, api: ApiServer) -> None:
        assert await reading.read(api, DEPLOYMENTS, "d0", "a")
        assert await reading.read(api, DEPLOYMENTS, "d1", "a", metadata=True) is None
        assert "PartialObjectMetadata;" in cluster.asked[-1].headers["accept"]

    within(work, *deployments(1))


def test_pages_follow_each_other(
    within: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "PAGE", 2)

    async def work(cluster: FakeCluster, api: ApiServer) -> None:
        sizes = [len(page) async for page in reading.pages(api, DEPLOYMENTS)]
        assert sizes == [2, 2, 1]
        assert [len(page) async for page in reading.pages(api, DEPLOYMENTS, "b")] == [0]

    within(work, *deployments(5))


def test_a_denial_names_verb_and_kind(within: Callable[..., None]) -> None:
    async def work(cluster: FakeCluster, api: ApiServer) -> None:
        text = "not allowed to get deployments.apps in namespace a"
        with pytest.raises(ApiServerError, match=text) as caught:
            await reading.read(api, DEPLOYMENTS, "d0", "a")
        assert caught.value.status == 403
        with pytest.raises(ApiServerError, match="not allowed to list nodes in the whole cluster"):
            [page async for page in reading.pages(api, NODES)]

    within(work, *deployments(1), denied={"get deployments", "list nodes"})


def test_a_server_that_is_busy_is_asked_again(within: Callable[..., None]) -> None:
    async def work(cluster: FakeCluster, api: ApiServer) -> None:
        cluster.faults = [Fault(lambda _: True, status=503)]
        assert await reading.read(api, DEPLOYMENTS, "d0", "a")
        assert len(cluster.asked) == 2

    within(work, *deployments(1))


@pytest.mark.parametrize("body", [b"<html>", b'{"items":3}', b"[]"])
def test_what_is_no_list_is_an_error(within: Callable[..., None], body: bytes) -> None:
    async def work(cluster: FakeCluster, api: ApiServer) -> None:
        cluster.faults = [Fault(lambda _: True, status=200, body=body)]
        with pytest.raises(ApiServerError, match="is not understood"):
            [page async for page in reading.pages(api, PODS)]

    within(work)


@pytest.mark.parametrize(
    ("kind", "namespace", "name", "path"),
    [
        (PODS, "", "", "api/v1/pods"),
        (PODS, "a", "b", "api/v1/namespaces/a/pods/b"),
        (DEPLOYMENTS, "a", "", "apis/apps/v1/namespaces/a/deployments"),
    ],
)
def test_paths(kind: Kind, namespace: str, name: str, path: str) -> None:
    assert kind.path(namespace, name) == path


@pytest.mark.parametrize("name", ["..", "a/b", "a?b"])
def test_no_name_leads_elsewhere(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be the name"):
        PODS.path("a", name)
