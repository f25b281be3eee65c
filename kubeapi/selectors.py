"""Label selectors as the API server evaluates them, with what is not met in words.

Source: Kubernetes, "Labels and Selectors"; apimachinery's LabelSelectorAsSelector.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def unmet(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> str | None:
    """The first requirement that the labels do not meet, in words; None where all are met.

    No selector, and an empty one, take everything: so it is in webhook configurations.
    """
    selector = selector or {}
    for key, value in (selector.get("matchLabels") or {}).items():
        if labels.get(key) != value:
            return f'label {key} is {_shown(labels, key)}, and must be "{value}"'
    for requirement in selector.get("matchExpressions") or ():
        problem = _unmet(requirement, labels)
        if problem:
            return problem
    return None


def _unmet(requirement: Mapping[str, Any], labels: Mapping[str, str]) -> str | None:
    key, operator = requirement["key"], requirement["operator"]
    values = requirement.get("values") or ()
    listed = ", ".join(f'"{value}"' for value in values)
    is_set, holds = key in labels, labels.get(key) in values
    if operator == "In" and not holds:
        return f"label {key} is {_shown(labels, key)}, and must be one of {listed}"
    if operator == "NotIn" and holds:
        return f"label {key} is {_shown(labels, key)}"
    if operator == "Exists" and not is_set:
        return f"label {key} is missing"
    if operator == "DoesNotExist" and is_set:
        return f"label {key} is there"
    return None


def _shown(labels: Mapping[str, str], key: str) -> str:
    return f'"{labels[key]}"' if key in labels else "missing"
