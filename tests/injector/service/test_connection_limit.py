"""Who keeps a place when there are too many connections."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from injector.service.connection_limit import (
    GRACE_SECONDS,
    REFUSAL_SECONDS,
    ConnectionLimit,
    Place,
    Stage,
    peer_of,
)


@dataclass
class Crowd:
    """A limit of four, a clock, and who was ended."""

    now: float = 100.0
    ended: list[str] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.limit = ConnectionLimit(4, self.count, lambda: self.now)

    def count(self, reason: str) -> None:
        self.reasons[reason] += 1

    def come(self, host: str, stage: Stage = Stage.IDLE, name: str = "") -> Place | None:
        place = self.limit.admit(host, lambda: self.ended.append(name or host))
        if place is not None:
            self.limit.move(place, stage)
        return place


@pytest.mark.parametrize(
    ("host", "peer"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("fd00:1:2:3:4::5", "fd00:1:2:3::"),
        ("fe80::1%eth0", "fe80::"),
        ("", ""),
        ("testclient", "testclient"),
    ],
)
def test_one_machines_addresses_are_one_client(host: str, peer: str) -> None:
    assert peer_of(host) == peer


def test_whoever_has_most_loses_one_to_whoever_has_fewer() -> None:
    crowd = Crowd()
    for _ in range(3):
        crowd.come("10.0.0.66")
    crowd.come("10.0.0.1")
    assert crowd.come("10.0.0.1") is not None
    assert crowd.ended == ["10.0.0.66"]
    assert len(crowd.limit) == 4


@pytest.mark.parametrize("stage", [Stage.HANDSHAKE, Stage.IDLE, Stage.RECEIVING])
def test_a_crowd_that_says_nothing_does_not_keep_an_api_server_out(stage: Stage) -> None:
    crowd = Crowd()
    for _ in range(100):
        crowd.come("10.0.0.66", stage)
        crowd.now += 0.001
    assert crowd.come("10.0.0.1", Stage.ANSWERING) is not None


def test_what_is_missed_least_goes_first_and_of_that_the_oldest() -> None:
    crowd = Crowd()
    for stage, name in [
        (Stage.RECEIVING, "receiving"),
        (Stage.IDLE, "old"),
        (Stage.IDLE, "new"),
        (Stage.HANDSHAKE, "handshake"),
    ]:
        crowd.come("10.0.0.66", stage, name)
        crowd.now += 0.1
    for _ in range(2):
        crowd.come("10.0.0.1", Stage.ANSWERING)
    assert crowd.ended == ["handshake", "old"]


def test_a_burst_of_one_client_does_not_eat_itself() -> None:
    crowd = Crowd()
    for _ in range(4):
        crowd.come("10.0.0.1", Stage.RECEIVING)
    assert crowd.come("10.0.0.1") is None
    assert crowd.ended == []
    crowd.now += 2 * GRACE_SECONDS
    assert crowd.come("10.0.0.1") is not None


def test_reviews_that_are_being_answered_are_never_ended_and_a_refusal_is_told() -> None:
    crowd = Crowd()
    for _ in range(4):
        crowd.come("10.0.0.66", Stage.ANSWERING)
    assert crowd.come("10.0.0.1") is None
    assert "all 4 are in use" in (crowd.limit.problem() or "")
    assert crowd.reasons == {"refused": 1}
    crowd.now += REFUSAL_SECONDS + 1
    assert crowd.limit.problem() is None


def test_as_many_clients_as_places_do_not_end_each_other() -> None:
    crowd = Crowd()
    for number in range(4):
        crowd.come(f"10.0.0.{number}")
    assert crowd.come("10.0.1.1") is None
    assert crowd.ended == []


def test_a_place_is_left_once() -> None:
    crowd = Crowd()
    place = crowd.come("10.0.0.1")
    assert place is not None
    crowd.limit.leave(place)
    crowd.limit.leave(place)
    assert len(crowd.limit) == 0


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(Stage), st.booleans())))
def test_the_limit_holds_and_the_count_is_right(
    steps: list[tuple[int, Stage, bool]],
) -> None:
    crowd, places = Crowd(), list[Place]()
    for peer, stage, leaves in steps:
        crowd.now += 0.4
        place = crowd.come(f"10.0.0.{peer}", stage)
        if place is not None:
            places.append(place)
        if leaves and places:
            crowd.limit.leave(places.pop())
        assert len(crowd.limit) == sum(crowd.limit.counts().values()) <= 4
