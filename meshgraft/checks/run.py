"""Runs the checks of the categories over a snapshot. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kubeapi.client import ApiServerError
from meshgraft.checks.in_force import as_installed
from meshgraft.checks.model import Category, Check, Options, Result, Skip, Snapshot


def selected(categories: Sequence[Category], options: Options) -> list[Category]:
    """The categories that were asked for."""
    return [category for category in categories if category.applies(options)]


def run(categories: Sequence[Category], snapshot: Snapshot) -> list[Result]:
    """The results in order; what was skipped leaves none, and a fatal fault ends it."""
    results = []
    for result in _run(categories, snapshot):
        results.append(result)
        if result.status == "error" and result.check.fatal:
            break
    return results


def _run(categories: Sequence[Category], snapshot: Snapshot) -> Iterator[Result]:
    for category in selected(categories, snapshot.options):
        for check in category.checks:
            try:
                problem = check.run(snapshot)
            except Skip:
                continue
            except ApiServerError as error:
                # Not to know is no success, whatever is behind it.
                problem = f"could not be checked: {error}"
            yield _result(category, check, problem, snapshot)


def _result(category: Category, check: Check, problem: str | None, snapshot: Snapshot) -> Result:
    if problem is None:
        return Result(category.name, check, "success")
    fix = as_installed(check.fix, snapshot)
    return Result(category.name, check, "warning" if check.warning else "error", problem, fix)


def is_success(results: Sequence[Result]) -> bool:
    """Warnings are no failure."""
    return all(result.status != "error" for result in results)


def may_pass(results: Sequence[Result]) -> list[Check]:
    """The checks that failed and may succeed a little later."""
    return [
        result.check for result in results if result.status == "error" and result.check.retriable
    ]
