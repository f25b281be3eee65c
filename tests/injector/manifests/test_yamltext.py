"""Each scalar keeps its spelling and its meaning; what cannot be kept is an error."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from injector.manifests.documents import Piece, cut
from injector.manifests.roundtrip import YamlError, dump, load

_SPELLED = """
080 0644 0o644 0x1F 0b1 1_000 1e3 1.50 .5 +1 -1 1:30 2020-01-01 2020-01-01T00:00:00Z y n Y N .inf
.nan 1.2.3 100m -x --flag a-b http://x:80/y#z $(NAME) true2
"""
SPELLED = _SPELLED.split()
_WORDS = "yes no on off true False null NULL ~ = << - -- --- ... %x @x `x & * ! | >"
_TRICKY = ("", " ", "a: b", "a #b", "- a", "\n", "a\n", "a\n\n", " a\n b", "\ta", "é", "\x85")
TEXTS = st.one_of(st.text(max_size=20), st.sampled_from((*SPELLED, *_WORDS.split(), *_TRICKY)))
TREES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), TEXTS),
    lambda tree: st.one_of(st.lists(tree, max_size=3), st.dictionaries(TEXTS, tree, max_size=3)),
    max_leaves=10,
)


def _load(text: str) -> Any:
    return load(Piece(text, 1))


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(TEXTS, TREES, min_size=1, max_size=3))
def test_what_is_written_reads_as_the_same(tree: dict[str, Any]) -> None:
    text = dump(tree)
    assert yaml.safe_load(text) == tree
    assert _load(text) == tree
    assert dump(_load(text)) == text


@pytest.mark.parametrize("text", [*SPELLED, "yes", "~", "", "null", "Off", "a b", "-", "a: b"])
@pytest.mark.parametrize("quote", ["'", '"'])
def test_a_quoted_text_stays_quoted(quote: str, text: str) -> None:
    document = f"key: {quote}{text}{quote}\n"
    assert _load(document) == {"key": text}
    assert dump(_load(document)) == document


@pytest.mark.parametrize("text", [*SPELLED, "true", "false", "null"])
def test_a_plain_scalar_stays_as_it_was_spelled(text: str) -> None:
    assert dump(_load(f"key: {text}\n")) == f"key: {text}\n"
    if ":" not in text:  # libyaml quotes those in brackets.
        assert dump(_load(f"[{text}, {{a: {text}}}]\n")) == f"[{text}, {{a: {text}}}]\n"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("080", 80),
        ("0644", 420),
        ("0o644", 420),
        ("0x1F", 31),
        ("1e3", 1000),
        ("1_000", 1000),
        (".5", 0.5),
        ("1.50", 1.5),
        ("yes", True),
        ("Off", False),
        ("~", None),
        ("", None),
        ("y", "y"),
        ("1:30", "1:30"),
        ("2020-01-01", "2020-01-01"),
        ("1.2.3", "1.2.3"),
        ("1e999", "1e999"),
        ('"080"', "080"),
        ("!!str 12", "12"),
        ("!!int '12'", 12),
    ],
)
def test_a_plain_scalar_means_what_it_means_to_kubernetes(text: str, value: Any) -> None:
    found = _load(f"key: {text}\n")["key"]
    assert found == value
    assert isinstance(found, type(value))


def test_order_and_flow_and_literal_blocks_stay() -> None:
    text = "z: 1\na: {c: [1, 'two'], b: \"\"}\nscript: |\n  set -e\n    run\nlast: []\n"
    assert dump(_load(text)) == text


def test_new_multi_line_texts_are_literal_blocks() -> None:
    assert dump({"script": "a\nb\n"}) == "script: |\n  a\n  b\n"


def test_aliases_and_merge_keys_are_written_out() -> None:
    text = "base: &b {image: app, tag: 1}\nown:\n  <<: *b\n  tag: 2\nagain: *b\n"
    tree = {
        "base": {"image": "app", "tag": 1},
        "own": {"tag": 2, "image": "app"},
        "again": {"image": "app", "tag": 1},
    }
    assert _load(text) == tree
    assert yaml.safe_load(dump(_load(text))) == tree


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\na: 2\n", 'line 2: key "a" is given twice'),
        ('{"a": 1,\n "a": 2}', 'line 1: key "a" is given twice'),
        ("a: [\n", "line 2: not YAML: did not find expected node content"),
        ("a: !Ref x\n", "line 1: the tag !Ref is not known"),
        ("a: &x [*x]\n", "line 1: an alias points into itself"),
        ("a: 1\n? [b]\n: 2\n", "line 2: a key must be a text"),
        ("a: 1\n<<: 3\n", "line 2: << takes a mapping, or a list of them"),
        ("a: *nobody\n", "line 1: not YAML: found undefined alias"),
        ("a: \x00\n", "line 1: not YAML: .*"),
    ],
)
def test_what_cannot_be_kept_is_an_error_with_its_line(text: str, said: str) -> None:
    with pytest.raises(YamlError, match=rf"^{said}"):
        _load(text)


def test_aliases_that_explode_are_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for level in range(1, 8):
        inner = ", ".join([f"*a{level - 1}"] * 10)
        lines.append(f"a{level}: &a{level} [{inner}]")
    with pytest.raises(YamlError, match="aliases repeat more than"):
        _load("\n".join(lines))


@pytest.mark.parametrize(
    "text",
    [
        "a: " + "[" * 300_000,
        "[" * 5000 + "]" * 5000,
        "- " * 5000 + "a",
        '{"a":' * 100_000 + "1" + "}" * 100_000,
        "\n".join(" " * level + "a:" for level in range(1500)),
    ],
)
def test_deep_nesting_is_an_error(text: str) -> None:
    with pytest.raises(YamlError, match=r"nested (too deeply|more than 300 deep)"):
        [load(piece) for piece in cut(text)]


def test_a_changed_document_keeps_its_separator_and_leading_comments() -> None:
    piece = Piece("--- # first\n# Source: a.yaml\n\na: 1 # why\n", 1)
    assert dump({"a": 2}, piece) == "--- # first\n# Source: a.yaml\n\na: 2\n"
    assert dump({"a": 2}, Piece("--- {a: 1}\n", 1)) == "---\na: 2\n"
