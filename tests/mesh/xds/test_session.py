"""Sessions against a model of Envoy: in any order of events, client and store agree in the end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from mesh.xds.messages import Key, Request, Resource, Response
from mesh.xds.session import MAX_BYTES, Refusal, Session
from mesh.xds.store import Store

CDS, EDS = "type/Cluster", "type/ClusterLoadAssignment"
NAMES = ("a", "b", "c", "d")


def resource(type_url: str, name: str, version: str, size: int = 1, *follows: Key) -> Resource:
    return Resource(Key(type_url, name), version, b"x" * size, follows, source=f"made of {name}")


def sent(session: Session) -> list[tuple[str, list[tuple[str, str]], list[str]]]:
    return [
        (each.type_url, [(one.key.name, one.version) for one in each.resources], [*each.removed])
        for each in session.responses()
    ]


def ack(response: Response) -> Request:
    return Request(type_url=response.type_url, nonce=response.nonce)


class Envoys(RuleBasedStateMachine):
    """One client of one type, over streams that come and go."""

    def __init__(self) -> None:
        super().__init__()
        self.store = Store()
        self.subscribed: set[str] = set()
        self.held: dict[str, str] = {}
        self.unsure: set[str] = set()
        """Gone from the store while there may have been no stream to say so."""
        self.refusals: list[Refusal] = []
        self.waiting: list[Response] = []
        self.serial = 0
        self.connect()

    def connect(self) -> None:
        self.session = Session(self.store, on_refused=self.refusals.append)
        self.waiting.clear()
        names = tuple(sorted(self.subscribed))
        held = {name: self.held[name] for name in names if name in self.held}
        self.session.receive(Request(type_url=CDS, subscribe=names, versions=held))

    @rule(name=st.sampled_from(NAMES))
    def subscribe(self, name: str) -> None:
        self.subscribed.add(name)
        self.session.receive(Request(type_url=CDS, subscribe=(name,)))

    @rule(name=st.sampled_from(NAMES))
    def unsubscribe(self, name: str) -> None:
        if name in self.subscribed:
            self.subscribed.discard(name)
            self.held.pop(name, None)
            self.session.receive(Request(type_url=CDS, unsubscribe=(name,)))

    @rule(name=st.sampled_from(NAMES), bad=st.booleans(), big=st.booleans())
    def put(self, name: str, bad: bool, big: bool) -> None:
        self.serial += 1
        self.unsure.discard(name)
        version = f"{'bad' if bad else 'good'}-{self.serial}"
        self.store.put(resource(CDS, name, version, MAX_BYTES if big else 1))

    @rule(name=st.sampled_from(NAMES))
    def remove(self, name: str) -> None:
        self.store.remove(Key(CDS, name))
        self.unsure.add(name)

    @rule()
    def reconnect(self) -> None:
        self.session.close()
        self.connect()

    @rule()
    def exchange(self) -> None:
        """Take what is there, and answer what came the time before."""
        answered, self.waiting = self.waiting, [*self.session.responses()]
        assert not (answered and self.waiting), "two responses of a type are under way"
        for response in answered or self.waiting:
            self.session.receive(self.take(response))
            if response in self.waiting:
                self.waiting.remove(response)

    def take(self, response: Response) -> Request:
        bad = [one.key.name for one in response.resources if one.version.startswith("bad")]
        if bad:
            return Request(type_url=CDS, nonce=response.nonce, error=f"{bad} is no good")
        for one in response.resources:
            if one.key.name in self.subscribed:
                self.held[one.key.name] = one.version
        for name in response.removed:
            self.held.pop(name, None)
        return Request(type_url=CDS, nonce=response.nonce)

    def teardown(self) -> None:
        for _ in range(60):
            self.exchange()
        assert not self.waiting
        assert not [*self.session.responses()], "it never ends"
        for name in self.subscribed:
            stored = self.store.get(Key(CDS, name))
            if stored is None:
                assert name in self.unsure or name not in self.held
            elif stored.version.startswith("bad"):
                assert self.held.get(name) != stored.version
                assert any(each.resource == stored for each in self.refusals)
            else:
                assert self.held.get(name) == stored.version
        self.session.close()
        assert self.store.wanted() == ()


TestEnvoys = Envoys.TestCase
TestEnvoys.settings = settings(max_examples=300, stateful_step_count=30, deadline=None)


@pytest.fixture
def store() -> Iterator[Store]:
    made = Store()
    yield made
    assert made.wanted() == ()


def test_who_asks_for_everything_hears_that_there_is_nothing(store: Store) -> None:
    session = Session(store)
    session.receive(Request(type_url=CDS))
    assert sent(session) == [(CDS, [], [])]
    assert sent(session) == []


def test_a_cluster_is_followed_by_its_endpoints_also_where_they_are_the_same(store: Store) -> None:
    store.put(resource(EDS, "eps", "1"))
    store.put(resource(CDS, "a", "1", 1, Key(EDS, "eps")))
    session = Session(store)
    session.receive(Request(type_url=CDS, subscribe=("a",)))
    (clusters,) = session.responses()
    session.receive(ack(clusters))
    session.receive(Request(type_url=EDS, subscribe=("eps",)))
    (endpoints,) = session.responses()
    session.receive(ack(endpoints))
    store.put(resource(CDS, "a", "2", 1, Key(EDS, "eps")))
    assert sent(session) == [(CDS, [("a", "2")], []), (EDS, [("eps", "1")], [])]
    session.close()


def test_what_is_not_known_is_not_missing(store: Store) -> None:
    session = Session(store)
    session.receive(Request(type_url=CDS, subscribe=("a", "b")))
    store.put(resource(CDS, "b", "1"))
    assert sent(session) == [(CDS, [("b", "1")], [])]
    session.close()


def test_after_a_reconnect_what_is_held_is_believed_and_nothing_removed(store: Store) -> None:
    store.put(resource(CDS, "a", "1"))
    store.put(resource(CDS, "b", "2"))
    session = Session(store)
    held = {"a": "1", "b": "1", "gone": "1", "not-asked-for": "1"}
    session.receive(Request(type_url=CDS, subscribe=("a", "b", "gone"), versions=held))
    assert sent(session) == [(CDS, [("b", "2")], [])]
    session.close()


def test_changes_are_merged_while_a_response_is_under_way(store: Store) -> None:
    store.put(resource(CDS, "a", "1"))
    session = Session(store)
    session.receive(Request(type_url=CDS, subscribe=("a", "b")))
    (first,) = session.responses()
    for version in range(2, 50):
        store.put(resource(CDS, "a", str(version)))
        store.put(resource(CDS, "b", str(version)))
    assert sent(session) == []
    session.receive(ack(first))
    assert sent(session) == [(CDS, [("a", "49"), ("b", "49")], [])]
    session.close()


def test_one_that_is_refused_is_named_and_holds_up_no_other(store: Store) -> None:
    refusals: list[Refusal] = []
    session = Session(store, on_refused=refusals.append)
    for name in NAMES:
        store.put(resource(CDS, name, "bad" if name == "b" else "good"))
    session.receive(Request(type_url=CDS, subscribe=NAMES))
    taken = []
    for _ in range(9):
        for response in session.responses():
            names = [one.key.name for one in response.resources]
            error = "no good" if "b" in names else None
            taken += [] if error else names
            session.receive(Request(type_url=CDS, nonce=response.nonce, error=error))
    assert sorted(taken) == ["a", "c", "d"]
    assert [(one.resource.source, one.why) for one in refusals] == [("made of b", "no good")]
    session.close()


def test_an_answer_to_another_response_than_the_last_counts_for_nothing(store: Store) -> None:
    store.put(resource(CDS, "a", "1"))
    session = Session(store)
    session.receive(Request(type_url=CDS, subscribe=("a",)))
    assert sent(session) == [(CDS, [("a", "1")], [])]
    session.receive(Request(type_url=CDS, nonce="999"))
    store.put(resource(CDS, "a", "2"))
    assert sent(session) == []
    session.close()


def test_it_wakes_whoever_writes(store: Store) -> None:
    woken: list[int] = []
    session = Session(store, wake=lambda: woken.append(1))
    session.receive(Request(type_url=CDS, subscribe=("a",)))
    before = len(woken)
    store.put(resource(CDS, "a", "1"))
    store.put(resource(CDS, "a", "1"))
    assert len(woken) == before + 1
    session.close()
