"""Waiting grows to a bound, is spread, and starts over."""

from __future__ import annotations

from process.backoff import Backoff


def test_it_grows_to_a_bound_and_starts_over() -> None:
    backoff = Backoff(first=0.25, longest=30.0)
    waits = [backoff.next() for _ in range(50)]
    assert 0.125 <= waits[0] <= 0.25
    assert max(waits) <= 30.0
    assert min(waits[10:]) >= 15.0
    backoff.reset()
    assert backoff.next() <= 0.25


def test_those_who_wait_do_not_come_back_together() -> None:
    late = [Backoff(failures=16).next() for _ in range(50)]
    assert max(late) - min(late) > 5


def test_what_the_other_side_asked_for_is_kept_to_and_spread() -> None:
    waits = [Backoff().next(60.0) for _ in range(50)]
    assert min(waits) >= 60
    assert max(waits) <= 72
    assert max(waits) - min(waits) > 3
