"""Label values always fit."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from vocabulary.labels import label_value

_NAMES = st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,250}[a-z0-9])?", fullmatch=True)
_VALID = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")


@given(_NAMES)
def test_every_name_gives_a_valid_label_and_short_ones_are_kept(name: str) -> None:
    value = label_value(name)
    assert _VALID.fullmatch(value)
    assert value == name or len(name) > 63


def test_long_names_that_begin_alike_stay_apart() -> None:
    assert label_value("a" * 80) != label_value("a" * 81)


def test_a_shortened_name_is_always_the_same() -> None:
    name = "x" * 60 + "-tail-of-the-name"
    assert label_value(name) == label_value(name)
    assert label_value(name).startswith("x" * 54 + "-")
