"""What is kept is bounded by its length, and what is used stays."""

from __future__ import annotations

import pytest

from injector.core.kept import Kept


def test_a_text_is_made_once() -> None:
    kept: Kept[str] = Kept(800)
    made: list[str] = []

    def make() -> str:
        made.append("x")
        return "text"

    assert [kept.get("a", make), kept.get("a", make)] == ["text", "text"]
    assert made == ["x"]


@pytest.mark.parametrize("length", [1, 99, 100, 101, 5000])
def test_never_more_is_kept_than_allowed(length: int) -> None:
    kept: Kept[int] = Kept(800)
    for key in range(1000):
        kept.get(key, lambda: "x" * length)
        assert kept.characters <= 800
    assert (kept.characters == 0) == (length > 100)


def test_what_was_not_used_for_longest_goes_first() -> None:
    kept: Kept[str] = Kept(16)
    for key in "abcdefgh":
        kept.get(key, lambda: "xx")
    kept.get("a", lambda: "never")
    kept.get("i", lambda: "xx")
    assert kept.get("a", lambda: "again") == "xx"
    assert kept.get("b", lambda: "z") == "z"
