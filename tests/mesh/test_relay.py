"""The relay's state: whom a pod trusts, what it may ask for, and what is kept for the next one."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from certificates.x509 import issue_authority
from mesh.relay.cache import Saver, load, save
from mesh.relay.keys import Credentials
from mesh.relay.node import LINGER_SECONDS, Metrics, Node
from mesh.relay.pod import PodSource
from mesh.relay.secrets import SECRET, key_secret
from mesh.rpc.identity import PodRequest, Signed
from mesh.xds.messages import Key, Resource
from mesh.xds.store import Store
from vocabulary.mesh import ALIASES

EDS, CDS = "type/Endpoints", "type/Cluster"
NOW = datetime.now(UTC)


def resource(type_url: str, name: str, version: str = "1") -> Resource:
    return Resource(Key(type_url, name), version, b"x", (Key(EDS, "other"),), f"source of {name}")


class Watcher:
    def __init__(self) -> None:
        self.heard: list[Key] = []

    def notify(self, key: Key) -> None:
        self.heard.append(key)


async def nobody(request: PodRequest) -> Signed:
    raise AssertionError(request)


def node(tmp_path: Path, now: list[float] | None = None, *, cache: bool = True) -> Node:
    clock = now or [0.0]
    return Node(
        sign=nobody,
        roots_file=tmp_path / "roots.pem",
        cache_file=tmp_path / "cache" if cache else None,
        metrics=Metrics(CollectorRegistry()),
        now=lambda: clock[0],
    )


class TestPodSource:
    def test_names_that_mean_something_else_to_it_are_others_within(self) -> None:
        upstream, watcher = Store(), Watcher()
        source = PodSource("u1", upstream)
        source.subscribe(Key(EDS, "shop/web:80"), watcher)
        upstream.put(resource(EDS, "shop/web:80", "for all"))
        upstream.put(resource(EDS, "shop/web:80#u1", "for itself"))
        before = source.get(Key(EDS, "shop/web:80"))
        assert before is not None
        assert before.version == "for all"
        value = json.dumps({EDS: ["shop/web:"]}).encode()
        upstream.put(Resource(Key(ALIASES, "u1"), "1", value))
        after = source.get(Key(EDS, "shop/web:80"))
        assert after is not None
        assert (after.version, after.key.name) == ("for itself", "shop/web:80")
        assert watcher.heard[-1] == Key(EDS, "shop/web:80")
        source.unsubscribe(Key(EDS, "shop/web:80"), watcher)
        source.close()
        assert upstream.wanted() == ()

    @pytest.mark.parametrize("value", [b"x", b"[]", b'{"a": 1}', b"null"])
    def test_aliases_that_are_not_understood_change_nothing(self, value: bytes) -> None:
        upstream = Store()
        source = PodSource("u1", upstream)
        upstream.put(Resource(Key(ALIASES, "u1"), "1", value))
        upstream.put(resource(EDS, "shop/web:80"))
        assert source.get(Key(EDS, "shop/web:80")) is not None

    @pytest.mark.parametrize("key", [Key(EDS, "shop/web:80#u2"), Key(ALIASES, "u2")])
    def test_what_is_another_pods_it_cannot_ask_for(self, key: Key) -> None:
        upstream, watcher = Store(), Watcher()
        source = PodSource("u1", upstream)
        upstream.put(Resource(key, "1", b"{}"))
        source.subscribe(key, watcher)
        assert not upstream.is_wanted(key)
        if "#" in key.name:
            assert source.get(key) is None

    def test_secrets_are_its_own(self) -> None:
        one, other = (PodSource(uid, Store()) for uid in ("u1", "u2"))
        one.secrets.put(key_secret(b"chain", b"key"))
        assert one.get(Key(SECRET, "default")) is not None
        assert other.get(Key(SECRET, "default")) is None


class TestNode:
    def test_what_no_pod_uses_any_more_stays_for_a_while(self, tmp_path: Path) -> None:
        clock = [0.0]
        relay, watcher, key = node(tmp_path, clock), Watcher(), Key(CDS, "a")
        relay.store.subscribe(key, watcher)
        assert relay.subscriptions.wants(key)
        relay.store.put(resource(CDS, "a"))
        relay.store.unsubscribe(key, watcher)
        clock[0] = LINGER_SECONDS - 1
        relay.let_go()
        assert relay.store.get(key) is not None
        clock[0] = LINGER_SECONDS + 1
        relay.let_go()
        assert relay.store.get(key) is None
        assert not relay.subscriptions.wants(key)

    def test_what_is_used_again_is_not_let_go(self, tmp_path: Path) -> None:
        clock = [0.0]
        relay, watcher, key = node(tmp_path, clock), Watcher(), Key(CDS, "a")
        relay.store.subscribe(key, watcher)
        relay.store.put(resource(CDS, "a"))
        relay.store.unsubscribe(key, watcher)
        relay.store.subscribe(key, watcher)
        clock[0] = 2 * LINGER_SECONDS
        relay.let_go()
        assert relay.store.get(key) is not None

    def test_what_is_one_pods_goes_with_it(self, tmp_path: Path) -> None:
        relay, watcher = node(tmp_path), Watcher()
        for key in (Key(ALIASES, "u1"), Key(EDS, "a#u1")):
            relay.store.subscribe(key, watcher)
            relay.store.unsubscribe(key, watcher)
            assert not relay.subscriptions.wants(key)

    def test_the_roots_are_what_is_published_and_what_identity_said_since(
        self, tmp_path: Path
    ) -> None:
        first, second = (issue_authority(NOW).pem for _ in range(2))
        relay = node(tmp_path)
        relay.read_roots()
        assert relay.roots() == b""
        (tmp_path / "roots.pem").write_bytes(first)
        relay.read_roots()
        assert relay.roots() == first
        relay._roots_signed(second + first)
        assert relay.roots() == second + first
        (tmp_path / "roots.pem").write_bytes(second)
        relay.read_roots()
        assert relay.roots() == second

    def test_it_starts_with_what_is_on_disk_and_asks_for_it_again(self, tmp_path: Path) -> None:
        store = Store()
        store.put(resource(CDS, "a"))
        save(tmp_path / "cache", store)
        relay = node(tmp_path)
        assert relay.store.get(Key(CDS, "a")) == resource(CDS, "a")
        (request,) = relay.subscriptions.requests()
        assert (request.subscribe, dict(request.versions)) == (("a",), {"a": "1"})


class TestCache:
    def test_it_is_whole_after_a_round_trip(self, tmp_path: Path) -> None:
        store, other = Store(), Store()
        for name in "abc":
            store.put(resource(CDS, name))
        save(tmp_path / "cache", store)
        assert load(tmp_path / "cache", other) == 3
        assert other.resources() == store.resources()

    @pytest.mark.parametrize("content", [b"", b"\xff\xff\xff", b"not a response"])
    def test_a_file_that_is_no_good_counts_for_nothing(
        self, tmp_path: Path, content: bytes
    ) -> None:
        (tmp_path / "cache").write_bytes(content)
        assert load(tmp_path / "cache", Store()) == 0

    def test_it_is_written_only_when_something_has_changed(self, tmp_path: Path) -> None:
        store = Store()
        saver = Saver(tmp_path / "cache", store)
        store.put(resource(CDS, "a"))
        assert saver.save_if_changed()
        assert not saver.save_if_changed()
        store.put(resource(CDS, "a", "2"))
        assert saver.save_if_changed()

    def test_a_folder_that_is_gone_costs_no_more_than_a_warning(self, tmp_path: Path) -> None:
        store = Store()
        store.put(resource(CDS, "a"))
        assert Saver(tmp_path / "gone/cache", store).save_if_changed()


def test_a_certificate_is_renewed_at_seventy_percent_of_its_life() -> None:
    held = Credentials(b"", b"", b"", NOW, NOW + timedelta(hours=10))
    assert held.renew_in(NOW) == 7 * 3600
    assert held.renew_in(NOW + timedelta(hours=8)) == 0
