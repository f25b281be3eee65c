"""Documents of a YAML stream, and the order in which a cluster takes them."""

from __future__ import annotations

import itertools

import pytest
import yaml

from meshgraft._errors import CommandError
from meshgraft.charts.manifests import documents, in_order, stream


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("# only a comment\n\n", []),
        ("a: 1\n", ["a: 1\n"]),
        ("---\na: 1\n---\n# c\nb: 2", ["a: 1\n", "# c\nb: 2\n"]),
        ("--- # note\na: 1\n---\n---\n", ["a: 1\n"]),
        ("a: |\n  ---\n  b\n", ["a: |\n  ---\n  b\n"]),
    ],
)
def test_documents_are_split_and_empty_ones_left_out(text: str, expected: list[str]) -> None:
    assert documents(text) == expected


def test_a_stream_is_what_was_put_in() -> None:
    given = ["kind: A\n", "kind: B\n"]
    assert [each["kind"] for each in yaml.safe_load_all(stream(given))] == ["A", "B"]
    assert documents(stream(given)) == given


def test_a_namespace_is_first_and_the_webhook_after_what_answers_it() -> None:
    kinds = ["Namespace", "ServiceAccount", "Deployment", "MutatingWebhookConfiguration", "Other"]
    for shuffled in itertools.permutations(kinds):
        ordered = in_order(f"kind: {kind}\n" for kind in shuffled)
        assert [yaml.safe_load(each)["kind"] for each in ordered] == kinds


def test_what_is_no_yaml_is_told_by_its_template() -> None:
    with pytest.raises(CommandError, match=r"^meshgraft/templates/a.yaml: .*mapping values"):
        in_order(["# Source: meshgraft/templates/a.yaml\nkind: A\nb: c: d\n"])
