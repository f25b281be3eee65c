"""Environment variables in an annotation: what the API server would refuse is left out."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vocabulary.annotations import BadItems, BadValue
from vocabulary.annotations.env import parse_env


@pytest.mark.parametrize(
    "item",
    [
        {"name": "A"},
        {"name": "A", "value": ""},
        {"name": "a.b-c_d", "value": "text"},
        {"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a.b/c']"}}},
        {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
        {
            "name": "A",
            "valueFrom": {"configMapKeyRef": {"name": "s.t", "key": "K", "optional": True}},
        },
        {
            "name": "A",
            "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}},
        },
    ],
)
def test_env_takes_what_the_api_server_takes(item: dict[str, Any]) -> None:
    assert parse_env(msgspec.json.encode([item]).decode()) == [item]


@pytest.mark.parametrize(
    "item",
    [
        {},
        "A",
        {"name": ""},
        {"name": "A=B"},
        {"name": 1},
        {"name": "A", "value": 1},
        {"name": "A", "other": "x"},
        {"name": "A", "valueFrom": None},
        {"name": "A", "valueFrom": {}},
        {"name": "A", "valueFrom": {"fieldRef": {}, "secretKeyRef": {}}},
        {"name": "A", "valueFrom": {"fieldRef": {}}},
        {"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name\n"}}},
        {"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.hostname"}}},
        {
            "name": "A",
            "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName", "apiVersion": ""}},
        },
        {"name": "A", "valueFrom": {"secretKeyRef": {"key": "k"}}},
        {"name": "A", "valueFrom": {"secretKeyRef": {"name": "S_", "key": "k"}}},
        {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": 1}}},
        {"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.gpu"}}},
        {"name": "A", "valueFrom": {"elsewhere": {"name": "s"}}},
        {"name": "A", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
    ],
)
def test_each_bad_env_is_named_and_the_good_ones_hold(item: Any) -> None:
    good = {"name": "GOOD", "value": "yes"}
    with pytest.raises(BadItems, match="EnvVar") as caught:
        parse_env(msgspec.json.encode([item, good]).decode())
    assert caught.value.good == [good]


@pytest.mark.parametrize("text", ["", "{not json", "{}", '"A"', "null", "[" * 100_000])
def test_env_that_is_no_list_at_all_is_refused(text: str) -> None:
    with pytest.raises(BadValue, match="JSON list"):
        parse_env(text)


@given(st.text(max_size=80))
def test_no_text_makes_it_fail_otherwise(text: str) -> None:
    with contextlib.suppress(BadValue):
        parse_env(text)
