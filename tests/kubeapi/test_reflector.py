"""What a reflector keeps; its patience with the API server is tested with namespaces and pods."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kubeapi import reflector
from kubeapi.client import ApiServer
from kubeapi.config import load_config
from kubeapi.reflector import Collection, Reflector
from tests.kubeapi.fake_apiserver import FakeApiServer, running, until


class Seen:
    """An `Observer` that remembers."""

    def __init__(self) -> None:
        self.known: list[int] = []
        self.causes: list[str] = []

    def in_touch(self, known: int) -> None:
        self.known.append(known)

    def watch_failed(self, cause: str) -> None:
        self.causes.append(cause)


def _read(content: bytes) -> tuple[str, str]:
    meta = json.loads(content)["metadata"]
    return meta["name"], meta.get("uid", "")


@pytest.fixture
def follow(tmp_path: Path) -> Callable[..., None]:
    """Runs a test's coroutine beside a reflector of node n1's pods, once it has listed them."""

    def follow(test: Any, prepare: Callable[[FakeApiServer], None]) -> None:
        async def within() -> None:
            async with asyncio.timeout(20), running() as server:
                prepare(server)
                api, seen = ApiServer(load_config(server.kubeconfig(tmp_path))), Seen()
                selector = {"fieldSelector": "spec.nodeName=n1"}
                collection = Collection("pods", "api/v1/pods", _read, params=selector)
                pods = Reflector(api, collection, seen)
                assert pods.problem() == "pods are not known yet: the first list is under way"
                task = asyncio.create_task(pods.run())
                await until(lambda: server.watching)
                assert pods.problem() is None
                await test(server, pods, seen)
                task.cancel()
                await asyncio.wait([task])
                await api.close()

        asyncio.run(within())

    return follow


def test_selectors_and_versions_are_asked_for_and_pages_joined(
    follow: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reflector, "PAGE", 2)

    def prepare(server: FakeApiServer) -> None:
        for number in range(5):
            server.put_pod(f"shop/p{number}", uid=str(number), node="n2" if number == 3 else "n1")

    async def test(server: FakeApiServer, pods: Reflector[str, str], _: Seen) -> None:
        assert len(pods) == 4
        assert pods.get("p4") == "4"
        assert pods.get("p3") is None
        first, second, watch = server.asked
        assert (first.query["limit"], second.query["continue"]) == ("2", "2")
        assert {asked.query["fieldSelector"] for asked in server.asked} == {"spec.nodeName=n1"}
        assert watch.query["resourceVersion"] == server.version
        assert watch.query["allowWatchBookmarks"] == "true"

    follow(test, prepare)


def test_changes_and_bookmarks_move_it_on(follow: Callable[..., None]) -> None:
    async def test(server: FakeApiServer, pods: Reflector[str, str], seen: Seen) -> None:
        server.put_pod("shop/a", uid="1")
        await until(lambda: pods.get("a") == "1")
        server.put_pod("shop/a", uid="2")
        await until(lambda: pods.get("a") == "2")
        server.delete_pod("shop/a")
        await until(lambda: len(pods) == 0)
        server.bookmark()
        server.end_watches()
        await until(lambda: server.count(lambda asked: asked.is_watch) == 2)
        assert server.asked[-1].query["resourceVersion"] == server.version
        assert seen.known == [0, 1, 1, 0, 0]
        assert seen.causes == []

    follow(test, lambda _: None)


@pytest.mark.parametrize(
    "line",
    [
        "<html>",
        '{"type":"ADDED","object":{"metadata":3}}',
        '{"type":"ADDED","object":' + "[" * 5000 + "]" * 5000 + "}",
        '{"type":"ERROR","object":{"code":500,"message":"no"}}',
    ],
)
def test_a_line_that_is_no_event_is_counted_and_the_watch_begun_anew(
    follow: Callable[..., None], line: str
) -> None:
    async def test(server: FakeApiServer, pods: Reflector[str, str], seen: Seen) -> None:
        server.say(line)
        await until(lambda: seen.causes)
        server.put_pod("shop/a", uid="1")
        await until(lambda: pods.get("a") == "1")

    follow(test, lambda _: None)


def test_an_object_without_a_name_is_left_out(follow: Callable[..., None]) -> None:
    async def test(server: FakeApiServer, pods: Reflector[str, str], _: Seen) -> None:
        server.say('{"type":"ADDED","object":{"metadata":{}}}')
        server.put_pod("shop/a", uid="1")
        await until(lambda: pods.get("a") == "1")
        assert len(pods) == 1

    follow(test, lambda _: None)
