"""The API server's shell: namespaces watched, owners fetched, whatever the API server does."""

from __future__ import annotations

import asyncio
import contextlib
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from injector.cluster import lookups as cluster
from injector.cluster import namespaces
from injector.cluster.lookups import KubeCluster, Lookups
from injector.cluster.metrics import ClusterMetrics
from injector.cluster.namespaces import Namespaces
from injector.cluster.source import ClusterError
from injector.core.model import Namespace, Owner
from injector.core.owners import ObjectMeta, OwnerReference
from kubeapi import client, reflector
from kubeapi.client import ApiServer
from kubeapi.config import load_config
from tests.kubeapi.fake_apiserver import NAMESPACES, Asked, FakeApiServer, Fault, running, until

ENABLED = {"linkerd.io__inject": "enabled"}
REPLICA_SETS = "/apis/apps/v1/namespaces/shop/replicasets/"


@dataclass
class Setup:
    """A fake API server, and everything that stands on a connection to it."""

    server: FakeApiServer
    api: ApiServer
    metrics: ClusterMetrics
    registry: CollectorRegistry
    namespaces: Namespaces
    cluster: KubeCluster

    def sample(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"proxy_inject_{name}", labels)

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.namespaces.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled(), task.exception()

    @contextlib.asynccontextmanager
    async def synced(self) -> AsyncIterator[None]:
        async with self.watching():
            await until(lambda: self.namespaces.problem() is None and self.server.watching)
            yield


@contextlib.asynccontextmanager
async def connected(folder: Path, **given: Any) -> AsyncIterator[Setup]:
    async with running(**given) as server:
        api = ApiServer(load_config(server.kubeconfig(folder)))
        registry = CollectorRegistry()
        metrics = ClusterMetrics(registry)
        known = Namespaces(api, metrics)
        yield Setup(server, api, metrics, registry, known, KubeCluster(api, known, metrics))
        await api.close()


Run = Callable[[Callable[[Setup], Coroutine[Any, Any, None]]], None]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a test's coroutine on a connection to a fake API server."""

    def run(test: Callable[[Setup], Coroutine[Any, Any, None]]) -> None:
        async def within() -> None:
            async with asyncio.timeout(20), connected(tmp_path) as setup:
                await test(setup)

        asyncio.run(within())

    return run


def lists(asked: Asked) -> bool:
    return asked.is_list


def watches(asked: Asked) -> bool:
    return asked.is_watch


def anything(asked: Asked) -> bool:
    return True


# Namespaces


def test_it_is_ready_once_the_last_page_of_the_first_list_is_there(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reflector, "PAGE", 2)

    async def test(setup: Setup) -> None:
        for number in range(5):
            setup.server.put(f"n{number}", **ENABLED)
        last = asyncio.Event()
        setup.server.faults = [Fault(lambda asked: asked.query.get("continue") == "4", until=last)]
        async with setup.watching():
            await until(lambda: setup.server.count(lists) == 3)
            assert "not known yet" in (setup.namespaces.problem() or "")
            last.set()
            await until(lambda: setup.namespaces.problem() is None)
        assert len(setup.namespaces) == 5
        assert setup.sample("namespaces") == 5
        assert "as=PartialObjectMetadataList" in setup.server.asked[0].headers["accept"]

    run(test)


def test_changes_arrive_by_the_watch(run: Run) -> None:
    async def test(setup: Setup) -> None:
        known = setup.namespaces
        setup.server.put("old", **ENABLED)
        async with setup.synced():
            setup.server.put("new", **ENABLED)
            await until(lambda: known.get("new"))
            setup.server.put("new", linkerd__io="x", **{"linkerd.io__inject": "disabled"})
            await until(
                lambda: known.get("new") == Namespace("new", {"linkerd.io/inject": "disabled"})
            )
            setup.server.delete("old")
            await until(lambda: known.get("old") is None)
        assert setup.server.count(lists) == 1

    run(test)


def test_of_a_namespace_our_vocabulary_is_kept_and_nothing_else() -> None:
    ours = {
        "linkerd.io/inject": "enabled",
        "config.linkerd.io/proxy-log-level": "debug",
        "config.alpha.linkerd.io/x": "1",
        "linkerd.io/injcet": "a typing error, which warnings tell of",
        "meshgraft.io/redirect": "{}",
    }
    others = {"kubectl.kubernetes.io/last-applied-configuration": "{}", "linkerd.io": "", "a": "b"}
    meta = namespaces._Meta(name="shop", annotations={**ours, **others}, labels={"a": "b"})
    slim = namespaces.NamespaceObject(meta).slim()
    assert slim == Namespace("shop", {**ours, "linkerd.io": ""})


def test_a_namespace_takes_little_memory_however_large_it_is(run: Run) -> None:
    async def test(setup: Setup) -> None:
        for number in range(1000):
            setup.server.put(f"n{number}", note="x" * 5000)
        tracemalloc.start()
        async with setup.watching():
            await until(lambda: setup.namespaces.problem() is None)
            held = [
                known.size
                for known in tracemalloc.take_snapshot().statistics("filename")
                if known.traceback[0].filename in (namespaces.__file__, reflector.__file__)
            ]
        tracemalloc.stop()
        assert sum(held) < 1000 * 1000

    run(test)


@pytest.mark.parametrize("by_event", [False, True], ids=["by status", "by an event"])
def test_an_expired_watch_leads_to_a_new_list(run: Run, by_event: bool) -> None:
    async def test(setup: Setup) -> None:
        setup.server.put("old")
        async with setup.synced():
            setup.server.delete("old")
            setup.server.put("new")
            await until(lambda: setup.namespaces.get("new"))
            setup.server.forget_history()
            if by_event:
                setup.server.say('{"type":"ERROR","object":{"code":410,"message":"too old"}}')
            else:
                setup.server.drop_connections()
            await until(lambda: setup.server.count(lists) == 2 and setup.server.watching)
        assert setup.namespaces.get("old") is None
        assert setup.namespaces.get("new")
        assert setup.sample("namespaces_watch_failures_total", cause="expired") == 1

    run(test)


def test_a_version_that_never_works_is_given_up(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a restored backup of etcd: "Too large resource version", for ever."""
    monkeypatch.setattr(reflector, "MISTRUST", 2)

    async def test(setup: Setup) -> None:
        setup.server.put("shop")
        async with setup.synced():
            setup.server.faults = [Fault(watches, status=504, times=2)]
            setup.server.drop_connections()
            await until(lambda: setup.server.count(lists) == 2)

    run(test)


def test_a_watch_that_never_begins_is_no_good_one(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reflector, "MISTRUST", 2)
    # All in a fiftieth of the time.
    monkeypatch.setattr(reflector, "_SETTLED_SECONDS", reflector._SETTLED_SECONDS / 50)
    monkeypatch.setattr(client, "ANSWER_SECONDS", client.ANSWER_SECONDS / 50)

    async def test(setup: Setup) -> None:
        setup.server.put("shop")
        setup.server.faults = [Fault(watches, until=asyncio.Event(), times=99)]
        async with setup.watching():
            await until(lambda: setup.server.count(lists) == 2)

    run(test)


@pytest.mark.parametrize("breaks", ["drop_connections", "end_watches"])
def test_a_watch_that_ends_goes_on_where_it_was(run: Run, breaks: str) -> None:
    async def test(setup: Setup) -> None:
        setup.server.put("a")
        async with setup.synced():
            setup.server.bookmark()
            setup.server.put("b")
            await until(lambda: setup.namespaces.get("b"))
            getattr(setup.server, breaks)()
            await until(lambda: setup.server.watching == 0)
            setup.server.put("c")
            await until(lambda: setup.namespaces.get("c"))
        assert setup.server.count(lists) == 1

    run(test)


def test_a_bookmark_alone_moves_the_watch_on(run: Run) -> None:
    async def test(setup: Setup) -> None:
        async with setup.synced():
            setup.server.bookmark()
            setup.server.put("a")
            await until(lambda: setup.namespaces.get("a"))
            setup.server.forget_history()
            setup.server.bookmark()
            await until(lambda: setup.namespaces._version == setup.server.version)
            setup.server.drop_connections()
            await until(lambda: setup.server.count(watches) == 2 and setup.server.watching)
        assert setup.server.count(lists) == 1
        assert all(
            asked.query["allowWatchBookmarks"] == "true"
            for asked in setup.server.asked
            if asked.is_watch
        )

    run(test)


@pytest.mark.parametrize("kind", [lists, watches])
def test_the_api_server_may_ask_for_patience(run: Run, kind: Callable[[Asked], bool]) -> None:
    async def test(setup: Setup) -> None:
        setup.server.put("shop")
        setup.server.faults = [Fault(kind, status=429, retry_after="1")]
        begun = time.monotonic()
        async with setup.synced():
            assert time.monotonic() - begun >= 1
        assert setup.server.count(kind) == 2
        assert setup.sample("namespaces_watch_failures_total", cause="throttled") == 1

    run(test)


def test_a_restart_of_the_api_server_is_survived_on_what_is_known(run: Run) -> None:
    async def test(setup: Setup) -> None:
        setup.server.put("shop")
        async with setup.synced():
            await setup.server.stop()
            setup.server.forget_history()
            setup.server.put("new")
            await until(
                lambda: setup.sample("namespaces_watch_failures_total", cause="unreachable")
            )
            assert setup.namespaces.problem() is None
            assert await setup.cluster.namespace("shop") == Namespace("shop")
            await setup.server.start()
            await until(lambda: setup.namespaces.get("new"))

    run(test)


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (Fault(lists, status=403, times=99), "answers GET /api/v1/namespaces with 403: as the"),
        (Fault(lists, status=500, body=b"<html>", times=99), "with 500: <html>"),
        (Fault(lists, status=0, times=99), "does not answer"),
        (Fault(lists, status=200, body=b"<html>", times=99), "is not understood"),
        (Fault(lists, status=200, body=b'{"items":3}', times=99), "is not understood"),
        (Fault(lists, status=200, body=b'{"error":"log in"}', times=99), "is not understood"),
    ],
)
def test_why_it_is_not_ready_can_be_read(run: Run, fault: Fault, text: str) -> None:
    async def test(setup: Setup) -> None:
        setup.server.faults = [fault]
        async with setup.watching():
            await until(lambda: text in (setup.namespaces.problem() or ""))
            fault.times = 0
            await until(lambda: setup.namespaces.problem() is None)

    run(test)


@pytest.mark.parametrize("kind", [lists, watches])
def test_an_api_server_that_accepts_and_says_nothing_is_given_up_on(
    run: Run, kind: Callable[[Asked], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "ANSWER_SECONDS", 0.2)

    async def test(setup: Setup) -> None:
        setup.server.put("shop")
        setup.server.faults = [Fault(kind, until=asyncio.Event())]
        async with setup.synced():
            assert setup.server.count(kind) == 2
        assert setup.sample("namespaces_watch_failures_total", cause="unreachable") == 1

    run(test)


def test_a_line_that_makes_no_sense_costs_one_watch(run: Run) -> None:
    async def test(setup: Setup) -> None:
        async with setup.synced():
            setup.server.say('{"type":"ADDED","obj')
            await until(lambda: setup.server.count(watches) == 2)
            setup.server.put("shop")
            await until(lambda: setup.namespaces.get("shop"))

    run(test)


@pytest.mark.parametrize("end", ["\x85", "\u2028", "\r", "\x0c"])
def test_what_some_take_for_the_end_of_a_line_may_stand_in_an_annotation(
    run: Run, end: str
) -> None:
    async def test(setup: Setup) -> None:
        async with setup.synced():
            setup.server.put("odd", **{"linkerd.io__x": f"a{end}b"})
            # As Go writes it: not everything that is not ASCII is escaped.
            line = setup.server._history[-1][1]
            setup.server.namespaces.clear()
            setup.server.say(line.replace("\\u0085", "\x85").replace("\\u2028", "\u2028"))
            setup.server.put("after")
            await until(lambda: setup.namespaces.get("after"))
            assert setup.namespaces.get("odd") == Namespace("odd", {"linkerd.io/x": f"a{end}b"})
        assert setup.server.count(watches) == 1

    run(test)


# A namespace that the watch has not brought


def test_a_new_namespace_is_asked_for_once_however_many_pods_wait(run: Run) -> None:
    async def test(setup: Setup) -> None:
        setup.server.put("new", **ENABLED)
        found = await asyncio.gather(*(setup.cluster.namespace("new") for _ in range(50)))
        assert set(map(str, found)) == {str(Namespace("new", {"linkerd.io/inject": "enabled"}))}
        assert await setup.cluster.namespace("new") == found[0]
        assert len(setup.server.asked) == 1
        assert "as=PartialObjectMetadata;" in setup.server.asked[0].headers["accept"]

    run(test)


@pytest.mark.parametrize("name", ["nowhere", "../../secrets", "a/b", "", "a?x=y", "n" * 254])
def test_a_namespace_that_does_not_exist_is_none(run: Run, name: str) -> None:
    async def test(setup: Setup) -> None:
        assert await setup.cluster.namespace(name) is None
        assert {asked.path for asked in setup.server.asked} <= {f"{NAMESPACES}/nowhere"}

    run(test)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(anything, status=403),
        Fault(anything, status=503, times=99),
        Fault(anything, status=0, times=99),
        Fault(anything, status=429, retry_after="30", times=99),
        Fault(anything, status=200, body=b"?"),
        Fault(anything, status=200, body=b'{"error":"log in"}'),
        Fault(anything, until=asyncio.Event()),
    ],
)
def test_what_the_api_server_does_not_say_is_an_error_in_time(
    run: Run, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "FETCH_SECONDS", 0.3)

    async def test(setup: Setup) -> None:
        setup.server.faults = [fault]
        begun = time.monotonic()
        with pytest.raises(ClusterError, match="API server"):
            await setup.cluster.namespace("shop")
        assert time.monotonic() - begun < 2
        assert setup.sample("lookups_total", kind="namespace", result="failed") == 1

    run(test)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(anything, status=429, retry_after="0"),
        Fault(anything, status=503),
        Fault(anything, status=0, times=3),
    ],
)
def test_a_passing_fault_is_tried_again_while_the_review_waits(run: Run, fault: Fault) -> None:
    async def test(setup: Setup) -> None:
        setup.server.put("shop")
        setup.server.faults = [fault]
        assert await setup.cluster.namespace("shop") == Namespace("shop")

    run(test)


# Owners


def reference(kind: str, name: str, api_version: str = "apps/v1", uid: str = "u") -> dict[str, str]:
    return {"kind": kind, "name": name, "apiVersion": api_version, "uid": uid}


def owned(uid: str, *owners: dict[str, str]) -> dict[str, Any]:
    return {"metadata": {"uid": uid, "ownerReferences": list(owners)}}


def of(kind: str, name: str, api_version: str = "apps/v1", uid: str = "u") -> ObjectMeta:
    above = OwnerReference(kind=kind, name=name, api_version=api_version, uid=uid)
    return ObjectMeta(generate_name="p-", namespace="shop", owner_references=[above])


ROLLOUT = "argoproj.io/v1alpha1"
OBJECTS = {
    f"{REPLICA_SETS}web-5d": owned("u", reference("Deployment", "web", uid="d")),
    f"{REPLICA_SETS}roll-1": owned("u", reference("Rollout", "roll", ROLLOUT, "r")),
    f"{REPLICA_SETS}bare": owned("u"),
    "/apis/batch/v1/namespaces/shop/jobs/night-1": owned(
        "u", reference("CronJob", "night", "batch/v1", "c")
    ),
}


@pytest.mark.parametrize(
    ("meta", "expected", "requests"),
    [
        (of("ReplicaSet", "web-5d"), Owner("deployment", "web", "apps/v1", "d"), 1),
        (of("ReplicaSet", "roll-1"), Owner("rollout", "roll", ROLLOUT, "r"), 1),
        (of("Job", "night-1", "batch/v1"), Owner("cronjob", "night", "batch/v1", "c"), 1),
        (of("ReplicaSet", "bare"), Owner("replicaset", "bare", "apps/v1", "u"), 1),
        (of("ReplicaSet", "gone"), Owner("replicaset", "gone", "apps/v1", "u"), 1),
        (of("ReplicaSet", "web-5d", uid="x"), Owner("replicaset", "web-5d", "apps/v1", "x"), 1),
        (of("ReplicaSet", "../x"), Owner("replicaset", "../x", "apps/v1", "u"), 0),
        (of("StatefulSet", "db"), Owner("statefulset", "db", "apps/v1", "u"), 0),
        (of("Job", "a", "x.io/v1"), Owner("job", "a", "x.io/v1", "u"), 0),
        (ObjectMeta(name="p", namespace="shop"), Owner("pod", "p"), 0),
    ],
    ids=lambda value: value.name if isinstance(value, Owner) else None,
)
def test_the_owner_is_found_with_at_most_one_request(
    run: Run, meta: ObjectMeta, expected: Owner, requests: int
) -> None:
    async def test(setup: Setup) -> None:
        setup.server.objects = dict(OBJECTS)
        assert await setup.cluster.owner(meta) == expected
        assert len(setup.server.asked) == requests

    run(test)


def test_events_get_the_owners_kind_as_the_api_spells_it(run: Run) -> None:
    async def test(setup: Setup) -> None:
        setup.server.objects = dict(OBJECTS)
        assert (await setup.cluster.owner(of("ReplicaSet", "web-5d"))).api_kind == "Deployment"

    run(test)


def test_a_hundred_pods_of_a_replica_set_cost_one_request(run: Run) -> None:
    async def test(setup: Setup) -> None:
        setup.server.objects = dict(OBJECTS)
        owners = await asyncio.gather(
            *(setup.cluster.owner(of("ReplicaSet", "web-5d")) for _ in range(100))
        )
        assert {owner.name for owner in owners} == {"web"}
        assert len(setup.server.asked) == 1
        await setup.cluster.owner(of("ReplicaSet", "web-5d"))
        assert len(setup.server.asked) == 1
        assert setup.sample("lookups_total", kind="owner", result="cached") == 1

    run(test)


def test_connections_are_bounded_however_many_ask(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "MAX_CONNECTIONS", 4)

    async def test(setup: Setup) -> None:
        held = asyncio.Event()
        setup.server.faults = [Fault(anything, until=held, times=99)]
        asking = [
            asyncio.create_task(setup.cluster.owner(of("ReplicaSet", f"r{number}")))
            for number in range(20)
        ]
        await until(lambda: len(setup.server.asked) == 4)
        held.set()
        assert len(await asyncio.gather(*asking)) == 20
        assert len(setup.server.asked) == 20

    run(test)


def test_who_gives_up_waiting_does_not_take_the_answer_from_others(run: Run) -> None:
    async def test(setup: Setup) -> None:
        setup.server.objects = dict(OBJECTS)
        held = asyncio.Event()
        setup.server.faults = [Fault(anything, until=held)]
        meta = of("ReplicaSet", "web-5d")
        first = asyncio.create_task(setup.cluster.owner(meta))
        second = asyncio.create_task(setup.cluster.owner(meta))
        await until(lambda: setup.server.asked)
        first.cancel()
        held.set()
        assert (await second).name == "web"
        assert len(setup.server.asked) == 1

    run(test)


def test_the_cache_is_bounded_and_forgets() -> None:
    asked: list[int] = []

    async def fetch(key: int) -> str:
        asked.append(key)
        return str(key)

    async def test() -> None:
        metrics = ClusterMetrics(CollectorRegistry())
        lookups: Lookups[int, str] = Lookups("owner", fetch, metrics, size=8, seconds=0.05)
        for key in range(100):
            assert await lookups.get(key) == str(key)
        assert len(lookups._known) == 8
        assert not lookups._pending
        await until(lambda: not len(lookups._known))
        await lookups.get(99)
        assert asked.count(99) == 2

    asyncio.run(test())


def test_that_there_is_no_such_owner_is_remembered() -> None:
    """Anybody who reaches the webhook may ask for one that is made up, again and again."""
    asked: list[str] = []

    async def fetch(key: str) -> str | None:
        asked.append(key)
        return None

    async def test() -> None:
        metrics = ClusterMetrics(CollectorRegistry())
        lookups: Lookups[str, str] = Lookups("owner", fetch, metrics, size=8, seconds=60)
        for _ in range(5):
            assert await lookups.get("made-up") is None
        assert await lookups.get("another") is None

    asyncio.run(test())
    assert asked == ["made-up", "another"]


def test_whether_an_owner_is_there_is_asked_once_and_by_its_uid(tmp_path: Path) -> None:
    found = Owner("statefulset", "db", "apps/v1", "u1", "StatefulSet")

    async def test() -> None:
        async with running() as server:
            server.objects["/apis/apps/v1/namespaces/shop/statefulsets/db"] = {
                "kind": "StatefulSet",
                "metadata": {"name": "db", "namespace": "shop", "uid": "u1"},
            }
            registry = CollectorRegistry()
            api = ApiServer(load_config(server.kubeconfig(tmp_path)))
            metrics = ClusterMetrics(registry)
            cluster = KubeCluster(api, Namespaces(api, metrics), metrics)
            assert [await cluster.is_there("shop", found) for _ in range(3)] == [True] * 3
            assert not await cluster.is_there("shop", replace(found, uid="u2"))
            assert not await cluster.is_there("shop", replace(found, api_kind="Rollout"))
            assert await cluster.is_there("shop", replace(found, uid="u3", is_known=True))
            assert len(server.asked) == 2
            await api.close()

    asyncio.run(test())
