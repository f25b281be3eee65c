"""No annotation costs more than a few milliseconds, whatever stands in it."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterator

import pytest

from injector.core.resolve import resolve
from injector.core.values import Values
from vocabulary.annotations import ANNOTATIONS, Annotation
from vocabulary.annotations.parse import MOST_ITEMS, parse_cidr_text, parse_opaque_port_text

SIZE = 256 * 1024
LIMIT = 0.005
"""Seconds of CPU time; the worst that is seen on the slowest machine is under 3 ms."""
_TOKENS = (
    *(" ", "\t", ",", ", ", "-", ".", "/", ":", "1", "0", "9", "a", "A", "e", "_", "=", "\0", "é"),
    *("1,", "80,", "1-2,", "a,", "a-a,", "1.1.1.1/1,", "::/0,", "fd00::1:2:3/127,", "x/y,"),
    *("[", "{", "{},", "[{}]", '{"name":"a"},', '{"name":"a","value":"b"},', "[],", "1s", "1.1h"),
)
_ENDS = ("", "!", "]", "x")
_STARTS = ("", "[", "1", '[{"name":"')


def _shapes(seed: int) -> Iterator[str]:
    """Every token over and over, then random mixtures of them, between every start and end."""
    chance = random.Random(seed)
    mixtures = ["".join(chance.choices(_TOKENS, k=chance.randint(2, 5))) for _ in range(20)]
    for fragment in (*_TOKENS, *mixtures):
        start, end = chance.choice(_STARTS), chance.choice(_ENDS)
        for first, last in {("", ""), ("", "!"), (start, end)}:
            yield (first + fragment * (SIZE // len(fragment)))[: SIZE - 1] + last


def _cost(row: Annotation, text: str) -> float:
    started = time.thread_time()
    resolve(_VALUES, {}, {row.key: text})
    return time.thread_time() - started


_VALUES = Values()
_ROWS = [
    next(rows)
    for _, rows in itertools.groupby(
        sorted(ANNOTATIONS, key=lambda row: (row.type, row.longest, row.sets or "", row.key)),
        key=lambda row: (row.type, row.longest, row.parse),
    )
]
"""One row for each parser and bound: the others are read in the same way."""


@pytest.mark.parametrize("row", _ROWS, ids=lambda row: row.key)
def test_the_worst_text_of_each_row_is_read_in_time(row: Annotation) -> None:
    for size in (row.longest, SIZE):
        texts = (text[:size] for text in _shapes(len(row.key)))
        worst = max(texts, key=lambda text: _cost(row, text))
        # Noise only ever adds.
        assert min(_cost(row, worst) for _ in range(5)) < LIMIT, repr(worst[:80])


def test_a_list_beyond_its_bound_is_cut_with_a_warning_that_names_it() -> None:
    text = ",".join(f"{number}" for number in range(1, 2 * 1500, 2))
    resolved = resolve(_VALUES, {}, {"config.linkerd.io/skip-outbound-ports": text})
    kept = resolved.values.proxy_init.ignore_outbound_ports.split(",")
    assert kept == text.split(",")[:MOST_ITEMS]
    (warning,) = resolved.warnings
    assert f"at most {MOST_ITEMS} items: 500 more left out" in warning


@pytest.mark.parametrize("parse", [parse_opaque_port_text, parse_cidr_text])
@pytest.mark.parametrize("more", ["", ",", ", "])
def test_a_list_of_just_the_bound_is_whole(parse: object, more: str) -> None:
    item = "80" if parse is parse_opaque_port_text else "10.0.0.0/8"
    text = ",".join([item] * MOST_ITEMS) + more
    assert parse(text) == ",".join([item] * MOST_ITEMS)  # type: ignore[operator]


@pytest.mark.parametrize(
    "text",
    [
        '[{"name": "PASSWORD", "value": "hunter2", "x": 1}]',
        '[{"name": "PASSWORD=hunter2"}]',
        '[{"PASSWORD": "hunter2"}]',
        '["hunter2"]',
        '[{"name": "PASSWORD", "value": "hunter2"',
        '[{"name": "PASSWORD", "valueFrom": {"hunter2": {}}}]',
    ],
)
def test_a_secret_in_a_mistyped_variable_is_not_repeated(text: str) -> None:
    resolved = resolve(_VALUES, {}, {"config.linkerd.io/proxy-additional-env": text})
    (warning,) = resolved.warnings
    assert "proxy-additional-env" in warning
    assert "hunter2" not in warning
