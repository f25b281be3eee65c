"""Label selectors, as the API server evaluates them."""

from __future__ import annotations

from typing import Any

import pytest

from kubeapi.selectors import unmet


def expression(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}


@pytest.mark.parametrize(
    ("selector", "labels", "problem"),
    [
        (None, {}, None),
        ({}, {"a": "b"}, None),
        ({"matchLabels": {"a": "b"}}, {"a": "b", "c": "d"}, None),
        ({"matchLabels": {"a": "b"}}, {"a": "x"}, 'label a is "x", and must be "b"'),
        ({"matchLabels": {"a": "b"}}, {}, 'label a is missing, and must be "b"'),
        (expression("a", "In", "b", "c"), {"a": "c"}, None),
        (expression("a", "In", "b", "c"), {}, 'label a is missing, and must be one of "b", "c"'),
        (expression("a", "NotIn", "b"), {}, None),
        (expression("a", "NotIn", "b"), {"a": "c"}, None),
        (expression("a", "NotIn", "b"), {"a": "b"}, 'label a is "b"'),
        (expression("a", "Exists"), {"a": ""}, None),
        (expression("a", "Exists"), {}, "label a is missing"),
        (expression("a", "DoesNotExist"), {}, None),
        (expression("a", "DoesNotExist"), {"a": ""}, "label a is there"),
        (
            {"matchLabels": {"a": "b"}, **expression("c", "Exists")},
            {"a": "b"},
            "label c is missing",
        ),
    ],
)
def test_the_first_requirement_that_is_not_met_is_named(
    selector: Any, labels: dict[str, str], problem: str | None
) -> None:
    assert unmet(selector, labels) == problem
