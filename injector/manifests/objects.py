"""Manifests: a rule applied to a document, or to each object of a List, and what came of it.

Pure: documents in, documents and reports out. Reading, writing and the words of the report are
elsewhere (`meshgraft.commands`, `injector.manifests.report`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from injector.core.model import Object
from injector.core.uninject import uninject
from injector.core.workloads import FieldError, check_metadata, is_core, items_of, pod_path

Status = Literal["injected", "annotated", "uninjected", "skipped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What became of one object, for the summary; ``kind`` is lowercase, as Linkerd has it."""

    kind: str
    name: str
    status: Status = "skipped"
    supported: bool = False
    """Whether inject can do anything at all with objects of this kind."""
    host_network: bool = False
    sidecar: bool = False
    disabled: bool = False
    udp: bool = False
    no_token: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def resource(self) -> str:
        """``deployment/web``."""
        return f"{self.kind}/{self.name}"


@dataclass(frozen=True, slots=True)
class Problem:
    """An object that cannot be injected, or is malformed: the reason, and the field."""

    message: str
    field: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """A document after all its objects were looked at; as it came where nothing changed."""

    document: Any
    reports: tuple[Report, ...] = ()
    problems: tuple[Problem, ...] = ()


class Refusal(Exception):
    """An object must not be injected; its report says why, and the problem where."""

    def __init__(self, problem: Problem, report: Report) -> None:
        super().__init__(problem.message)
        self.problem = problem
        self.report = report


Rule = Callable[[Object], tuple[Object, Report]]
"""What to do with one object. Raises `FieldError` or `Refusal`."""


def transform(document: Any, rule: Rule) -> Result:
    """Apply a rule to a document, and to each object of a List; ``document`` is not changed."""
    if document is None:
        return Result(None)
    try:
        _check_object(document)
        items = items_of(document)
        if items is not None:
            return _transform_list(document, [*items], rule)
        after, report = rule(document)
    except FieldError as error:
        return Result(document, problems=(Problem(_located(document, error.problem), error.field),))
    except Refusal as refusal:
        return Result(document, (refusal.report,), (refusal.problem,))
    return Result(document if after == document else after, (report,))


def _check_object(document: Any) -> None:
    if not isinstance(document, dict):
        raise FieldError("", "a Kubernetes object is expected here")
    if not isinstance(document.get("kind", ""), str):
        raise FieldError("kind", "a text is expected")
    if not isinstance(document.get("metadata") or {}, dict):
        raise FieldError("metadata", "an object is expected")


def _located(document: Any, problem: str) -> str:
    """The problem with the object's name, as far as there is one."""
    try:
        report = describe(document)
    except AttributeError:
        return problem
    return f"{report.resource}: {problem}" if report.kind and report.name else problem


def _transform_list(document: Object, items: list[tuple[str, Object | None]], rule: Rule) -> Result:
    reports: list[Report] = []
    problems: list[Problem] = []
    after: list[Any] = []
    for (place, item), original in zip(items, document["items"] or (), strict=True):
        if item is None:  # as Linkerd's command hands it on
            after.append(None)
            continue
        result = transform(item, rule)
        lent = item.keys() - original.keys()
        after.append(
            original
            if result.document is item
            else {key: value for key, value in result.document.items() if key not in lent}
        )
        reports += result.reports
        problems += [
            Problem(problem.message, f"{place}.{problem.field}".rstrip("."))
            for problem in result.problems
        ]
    changed = any(new is not old for new, old in zip(after, document["items"] or (), strict=True))
    document = {**document, "items": after} if changed else document
    return Result(document, tuple(reports), tuple(problems))


def describe(obj: Object) -> Report:
    """The report of an object of which nothing is known but its kind and name."""
    metadata = obj.get("metadata") or {}
    return Report(
        kind=obj.get("kind", "").lower(),
        name=str(metadata.get("name") or metadata.get("generateName") or ""),
    )


def uninject_rule(obj: Object) -> tuple[Object, Report]:
    """The rule of ``uninject``."""
    check_own_metadata(obj)
    after = uninject(obj)
    report = describe(obj)
    status: Status = "skipped" if after == obj else "uninjected"
    return after, Report(kind=report.kind, name=report.name, status=status)


def check_own_metadata(obj: Object) -> None:
    """Refuse an object of ours with malformed metadata.

    Raises:
        FieldError: what is wrong, and where.
    """
    if pod_path(obj) is not None or is_core(obj, "Namespace") or is_core(obj, "Service"):
        check_metadata(obj)
