"""A text is cut into documents and joined without loss."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from injector.manifests.documents import cut, join
from injector.manifests.roundtrip import load

PARTS = st.sampled_from(
    (
        "a: 1\n",
        "---\na: 1\n",
        "--- # comment\nb: 2\n",
        "---\n",
        "# only a comment\n",
        "---\ntext: |\n  --- is text here\n",
        "--- {c: 3}\n",
        "a: 1\n...\n",
        "\n",
        "---\r\na: 1\r\n",
    )
)


@settings(max_examples=100, deadline=None)
@given(st.lists(PARTS, max_size=5).map("".join))
def test_pieces_are_together_the_text(text: str) -> None:
    pieces = cut(text)
    assert "".join(piece.text for piece in pieces) == text
    offset = 0
    for piece in pieces:
        assert piece.line == text.count("\n", 0, offset) + 1
        offset += len(piece.text)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", []),
        ("a: 1", [{"a": 1}]),
        ("---\na: 1\n---\n---\nb: 2\n", [{"a": 1}, None, {"b": 2}]),
        ("# licence\n---\na: 1\n", [None, {"a": 1}]),
        ("%YAML 1.1\n---\na: 1\n...\n%YAML 1.1\n---\nb: 2\n", [{"a": 1}, {"b": 2}]),
        ('{"a": 1}\n{"b": 2}', [{"a": 1}, {"b": 2}]),
        ('\ufeff{\t"a": 1}', [{"a": 1}]),
        ("{a: 1}\n---\n{b: 2}\n", [{"a": 1}, {"b": 2}]),
        ("text: |\n  ---\n  x\n", [{"text": "---\nx\n"}]),
        ("a: 1\n---b: 2\n", [{"a": 1, "---b": 2}]),
    ],
)
def test_documents_are_told_apart(text: str, values: list[Any]) -> None:
    assert [load(piece) for piece in cut(text)] == values


def test_each_piece_knows_its_line() -> None:
    assert [piece.line for piece in cut("a: 1\nb: 2\n---\nc: 3\n...\nd: 4\n")] == [1, 3, 6]


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ([], ""),
        (["a: 1"], "a: 1\n"),
        (["a: 1\n", "b: 2\n"], "a: 1\n---\nb: 2\n"),
        (["a: 1", "---\nb: 2\n"], "a: 1\n---\nb: 2\n"),
        (["a: 1\n", "%YAML 1.1\n---\nb: 2\n"], "a: 1\n...\n%YAML 1.1\n---\nb: 2\n"),
        (['{"a": 1}', '{"b": 2}'], '{"a": 1}\n---\n{"b": 2}\n'),
    ],
)
def test_joined_documents_stay_apart(parts: list[str], text: str) -> None:
    assert join(parts) == text


def test_twenty_thousand_documents_are_joined_in_no_time() -> None:
    """The time for each further document must not grow with those before it."""
    parts = ["a: 1\n"] * 20_000
    started = time.process_time()
    assert join(parts) == "a: 1\n" + "---\na: 1\n" * 19_999
    assert time.process_time() - started < 1
