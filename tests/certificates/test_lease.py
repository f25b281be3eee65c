"""The Lease: one holds it, it passes on when its holder ends or is gone, and conflicts are lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from certificates import lease as lease_module
from certificates.lease import WAS_AWAY, Lease, Seen, gap, may_take
from kubeapi.client import ApiServer
from kubeapi.config import load_config
from tests.injector.cert_support import KEPT, LEASE
from tests.kubeapi.fake_apiserver import Fault, until
from tests.kubeapi.keeping_apiserver import KeepingApiServer, keeping


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "RENEW_SECONDS", 0.05)
    monkeypatch.setattr(lease_module, "DURATION_SECONDS", 1)


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    structlog.reset_defaults()
    with capture_logs() as lines:
        yield lines


@contextlib.asynccontextmanager
async def cluster(folder: Path) -> AsyncIterator[tuple[KeepingApiServer, ApiServer]]:
    async with asyncio.timeout(20), keeping() as server:
        api = ApiServer(load_config(server.kubeconfig(folder)))
        try:
            yield server, api
        finally:
            await api.close()


def part(api: ApiServer, name: str) -> Lease:
    assert KEPT.lease is not None
    return Lease(api, KEPT.lease, name)


async def end(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


def spec(server: KeepingApiServer) -> dict[str, Any]:
    found: dict[str, Any] = server.kept[LEASE]["spec"]
    return found


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (Seen("", 30, 0), True),
        (Seen("me", 30, 0), True),
        (Seen("other", 30, 29.9), False),
        (Seen("other", 30, 30), True),
    ],
)
def test_a_lease_is_taken_that_nobody_holds_or_renews(seen: Seen, expected: bool) -> None:
    assert may_take(seen, "me") is expected


def test_of_three_one_holds_it_and_the_next_follows_when_it_ends(tmp_path: Path) -> None:
    async def test() -> None:
        async with cluster(tmp_path) as (server, api):
            parts = [part(api, f"pod-{number}") for number in range(3)]
            changes: list[bool] = []
            tasks = {each: asyncio.create_task(each.run()) for each in parts}
            await until(lambda: sum(each.held for each in parts) == 1)
            [holder] = [each for each in parts if each.held]
            await until(lambda: all(each.holder == holder.holder for each in parts))
            assert spec(server)["leaseTransitions"] == 1
            renewed = spec(server)["renewTime"]
            acquired = spec(server)["acquireTime"]
            await until(lambda: spec(server)["renewTime"] > renewed)
            assert spec(server)["acquireTime"] == acquired
            holder.on_change = changes.append
            await end(tasks.pop(holder))
            # It was given up: nobody waits for it to get stale.
            await until(lambda: any(each.held for each in tasks), 0.9)
            assert not holder.held
            assert spec(server)["leaseTransitions"] == 2
            await end(*tasks.values())
            assert spec(server)["holderIdentity"] == ""

    asyncio.run(test())


def test_a_holder_that_is_gone_is_followed_when_the_lease_is_stale(tmp_path: Path) -> None:
    async def test() -> None:
        async with cluster(tmp_path) as (server, api):
            # A clock far ahead says nothing about how old the record is.
            gone = {"holderIdentity": "gone", "leaseDurationSeconds": 1, "renewTime": "2099"}
            server.change(LEASE, {"spec": {**gone, "leaseTransitions": 4}})
            mine = part(api, "me")
            task = asyncio.create_task(mine.run())
            await until(lambda: mine.holder == "gone")
            assert not mine.held
            await until(lambda: mine.held)
            assert spec(server)["leaseTransitions"] == 5
            await end(task)

    asyncio.run(test())


def test_a_holder_without_an_api_server_stops_in_time_and_returns(
    tmp_path: Path, logged: list[Any]
) -> None:
    async def test() -> None:
        async with cluster(tmp_path) as (server, api):
            mine = part(api, "me")
            changes: list[bool] = []
            mine.on_change = changes.append
            task = asyncio.create_task(mine.run())
            await until(lambda: mine.held)
            await server.stop()
            await until(lambda: changes == [True, False], 5)
            assert not mine.held
            await server.start()
            await until(lambda: changes == [True, False, True])
            await end(task)

    asyncio.run(test())
    assert "lease not renewed" in {line["event"] for line in logged}


def test_who_comes_second_does_not_hold_it(tmp_path: Path, logged: list[Any]) -> None:
    async def test() -> None:
        async with cluster(tmp_path) as (server, api):
            server.faults = [Fault(lambda asked: asked.method == "POST", status=409)]
            mine = part(api, "me")
            await mine._try()
            assert not mine.held
            await mine._try()
            assert mine.held

    asyncio.run(test())
    assert logged == []


def test_a_lease_that_is_not_one_is_told(tmp_path: Path, logged: list[Any]) -> None:
    async def test() -> None:
        async with cluster(tmp_path) as (server, api):
            server.change(LEASE, {"spec": {"leaseTransitions": "many"}})
            await part(api, "me")._try()

    asyncio.run(test())
    assert "leases meshgraft/lease is not understood" in logged[0]["error"]


@pytest.mark.parametrize(("seconds", "told"), [(600, True), (60, False)])
def test_that_no_replica_ran_is_told_by_the_first_that_does_again(
    tmp_path: Path, logged: list[Any], seconds: int, told: bool
) -> None:
    async def test() -> None:
        async with cluster(tmp_path) as (server, api):
            before = (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat()
            assert KEPT.lease is not None
            server.kept[LEASE] = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": KEPT.lease.name, "resourceVersion": "1", "uid": "u"},
                "spec": {"holderIdentity": "", "renewTime": before},
            }
            lease, heard = part(api, "a"), list[float]()
            lease.on_away = heard.append
            task = asyncio.create_task(lease.run())
            await until(lambda: lease.held)
            await end(task)
            note = (server.kept[LEASE]["metadata"].get("annotations") or {}).get(WAS_AWAY)
            assert (note is not None) == told
            assert [round(each) for each in heard] == ([seconds] if told else [])
            reasons = [event["reason"] for event in server.events]
            assert reasons == (["InjectorWasAway"] if told else [])

    asyncio.run(test())
    assert any("no injector ran" in line["event"] for line in logged) == told


@pytest.mark.parametrize("renewed", [None, "", "yesterday", "2026-01-01"])
def test_a_time_that_is_none_tells_of_no_gap(renewed: str | None) -> None:
    assert gap(renewed, datetime.now(UTC)) == 0
