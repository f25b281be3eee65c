"""The results in Linkerd's three forms: table, short, json."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, Literal

from meshgraft._terminal import shown
from meshgraft.checks.model import Result, Status
from meshgraft.checks.run import is_success

Output = Literal["table", "json", "short"]
_MARKS: dict[Status, str] = {"success": "√", "warning": "‼", "error": "×"}
Paint = Callable[[str], str]


def render(results: Sequence[Result], output: Output, paint: Paint = str) -> str:
    """All results; in the short form, only what is not well. ``paint`` colours the marks."""
    if output == "json":
        return json.dumps(_tree(results), indent=2, ensure_ascii=False) + "\n"
    listed = [result for result in results if output == "table" or result.status != "success"]
    lines: list[str] = []
    for category, group in groupby(listed, key=lambda result: result.category):
        lines += [category, "-" * len(category)]
        for result in group:
            lines += _lines(result, paint)
        lines.append("")
    mark = _MARKS["success" if is_success(results) else "error"]
    return "\n".join([*lines, f"Status check results are {paint(mark)}"]) + "\n"


def _lines(result: Result, paint: Paint) -> list[str]:
    lines = [f"{paint(_MARKS[result.status])} {result.check.text}"]
    if result.status != "success":
        lines += [f"    {line}" for line in shown(result.problem).splitlines()]
        lines += [f"    {result.fix}", f"    see {result.check.hint} for hints"]
    return lines


def _tree(results: Sequence[Result]) -> dict[str, Any]:
    """Linkerd's shape, with ``id`` and ``fix`` besides."""
    categories = [
        {"categoryName": name, "checks": [_leaf(result) for result in group]}
        for name, group in groupby(results, key=lambda result: result.category)
    ]
    return {"success": is_success(results), "categories": categories}


def _leaf(result: Result) -> dict[str, str]:
    leaf = {"id": result.check.id, "description": result.check.text}
    if result.status != "success":
        leaf |= {"hint": result.check.hint, "error": result.problem, "fix": result.fix}
    return {**leaf, "result": result.status}
