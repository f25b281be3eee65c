"""The table of reasons for leaving a pod alone is whole, and its blanks can all be filled."""

from __future__ import annotations

import string

import pytest

from injector.core.skips import WORDS, SkipReason

BLANKS = {"text", "meant", "namespace", "at_namespace", "at_pod", "sidecars"}


def test_every_reason_has_its_words() -> None:
    assert set(WORDS) == set(SkipReason)


@pytest.mark.parametrize("reason", SkipReason)
def test_its_blanks_are_those_that_the_audit_fills(reason: SkipReason) -> None:
    words = WORDS[reason]
    for text in (words.blocked, words.fix, words.no_longer):
        assert {name for _, name, _, _ in string.Formatter().parse(text) if name} <= BLANKS
    assert "{" not in words.text
