"""The runner and the report, over checks made for the purpose."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from kubeapi.client import ApiServerError
from meshgraft.checks.catalog import CATEGORIES
from meshgraft.checks.model import DOCS, Category, Check, Options, Skip, Snapshot
from meshgraft.checks.report import render
from meshgraft.checks.run import is_success, may_pass, run
from tests.docs.markdown import ROOT, anchors

NOTHING = Snapshot(options=Options(), now=datetime.now(UTC))


def check(name: str, answer: Callable[[Snapshot], str | None], **more: Any) -> Check:
    return Check(id=name, text=f"{name} is", run=answer, fix="Fix it.", why="So.", **more)


def skip(_: Snapshot) -> str | None:
    raise Skip


def unknown(_: Snapshot) -> str | None:
    raise ApiServerError("no answer")


WELL = check("well", lambda _: None)
WRONG = check("wrong", lambda _: "it is\nbroken", retriable=True)
ODD = check("odd", lambda _: "old", warning=True, retriable=True)
FATAL = check("fatal", lambda _: "dead", fatal=True)
SKIPPED = check("skipped", skip)
UNKNOWN = check("unknown", unknown)


def outcome(*checks: Check) -> list[tuple[str, str]]:
    category = Category(name="one", checks=checks)
    return [(each.check.id, each.status) for each in run([category], NOTHING)]


def test_a_fatal_fault_ends_it_and_what_is_skipped_leaves_no_trace() -> None:
    assert outcome(WELL, SKIPPED, ODD, UNKNOWN, FATAL, WRONG) == [
        ("well", "success"),
        ("odd", "warning"),
        ("unknown", "error"),
        ("fatal", "error"),
    ]


def test_a_category_that_was_not_asked_for_is_left_out() -> None:
    category = Category(name="one", checks=(WRONG,), applies=lambda options: options.pre)
    assert run([category], NOTHING) == []


def results(*checks: Check) -> Any:
    return run([Category(name="one", checks=checks)], NOTHING)


def test_warnings_are_no_failure_and_are_not_waited_for() -> None:
    assert is_success(results(WELL, ODD))
    assert may_pass(results(ODD)) == []
    assert not is_success(results(WRONG))
    assert may_pass(results(WRONG, FATAL)) == [WRONG]


def test_the_table_is_linkerds_with_the_fix_in_one_line() -> None:
    assert render(results(WELL, ODD, WRONG), "table") == (
        "one\n---\n"
        "√ well is\n"
        "‼ odd is\n    old\n    Fix it.\n    see docs/reference/checks.md#odd for hints\n"
        "× wrong is\n    it is\n    broken\n    Fix it.\n"
        "    see docs/reference/checks.md#wrong for hints\n"
        "\n"
        "Status check results are ×\n"
    )


@pytest.mark.parametrize(("checks", "mark"), [((WELL, ODD), "√"), ((WRONG,), "×")])
def test_the_last_line_sums_up(checks: tuple[Check, ...], mark: str) -> None:
    for output in ("table", "short"):
        text = render(results(*checks), output)
        assert text.endswith(f"Status check results are {mark}\n")


def test_json_leaves_out_what_is_empty() -> None:
    tree = json.loads(render(results(WELL, WRONG), "json"))
    well, wrong = tree["categories"][0]["checks"]
    assert well == {"id": "well", "description": "well is", "result": "success"}
    assert (wrong["error"], wrong["fix"], wrong["result"]) == ("it is\nbroken", "Fix it.", "error")
    assert tree["success"] is False


def test_each_hint_leads_to_a_heading_of_its_own() -> None:
    page, ids = ROOT / DOCS, [each.id for category in CATEGORIES for each in category.checks]
    assert set(ids) <= anchors(page)
    assert all(each.hint == f"{DOCS}#{each.id}" for each in CATEGORIES[0].checks)
