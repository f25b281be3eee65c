"""A few hundred odd reviews on every run; the fuzz target itself runs by hand."""

from __future__ import annotations

import random

import pytest

from tests.fuzz.webhook import body_from, check, profile_from


class _Random:
    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def integer(self, lower: int, upper: int) -> int:
        return self._random.randint(lower, upper)


@pytest.mark.parametrize("block", range(10))
def test_the_answer_is_defined_and_the_patch_applies_once(block: int) -> None:
    for seed in range(block * 40, block * 40 + 40):
        source = _Random(seed)
        body = body_from(source)
        try:
            check(body, profile_from(source), cni=bool(source.integer(0, 1)))
        except Exception as error:
            raise AssertionError(f"seed {seed}: {body!r}") from error
