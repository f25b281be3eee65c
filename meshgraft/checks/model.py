"""The values of a check: what is asked for, what was fetched, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, TypeVar

from injector.core.model import Object
from kubeapi.client import ApiServerError
from kubeapi.reading import Kind
from meshgraft.installed import CNI_NAMESPACE, NAMESPACE

DOCS = "docs/reference/checks.md"
"""The page that hints lead to, one anchor for each check; put a public address here."""
Status = Literal["success", "warning", "error"]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was asked for on the command line."""

    pre: bool = False
    cni: bool = False
    proxy: bool = False
    namespace: str = ""
    """Of the data plane; empty: all."""
    mesh_namespace: str = NAMESPACE
    cni_namespace: str = CNI_NAMESPACE


@dataclass(frozen=True, slots=True)
class Ref:
    """One object, or without a name all of its kind in a namespace that a selector takes."""

    kind: Kind
    name: str = ""
    namespace: str = ""
    selector: str = ""
    keep: Callable[[Object], Object] | None = field(default=None, compare=False)
    """What to keep of each object of a list that may be long."""
    most_pages: int = field(default=0, compare=False)
    """How many pages of a list are enough; 0: all."""

    def __str__(self) -> str:
        where = f" in namespace {self.namespace}" if self.namespace else ""
        return f"{self.kind.label}{' ' if self.name else ''}{self.name}{where}"


@dataclass(frozen=True, slots=True)
class Access:
    """Something that one may or may not do."""

    verb: str
    kind: Kind
    namespace: str = ""


@dataclass(frozen=True, slots=True)
class Trial:
    """A pod that asks for a proxy, sent to a namespace as a dry run."""

    namespace: str


class Skip(Exception):
    """There is nothing to check, or another check has reported it already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The cluster at one moment: each answer is what was found, None for "there is none", or
    the error that came instead."""

    options: Options
    now: datetime
    client: Exception | None = None
    """Why there is no way to the cluster at all."""
    version: Object | ApiServerError | None = None
    objects: Mapping[Ref, Object | ApiServerError | None] = field(default_factory=dict)
    lists: Mapping[Ref, tuple[Object, ...] | ApiServerError] = field(default_factory=dict)
    access: Mapping[Access, bool | ApiServerError] = field(default_factory=dict)
    trials: Mapping[Trial, Object | ApiServerError] = field(default_factory=dict)

    def find(self, ref: Ref) -> Object | None:
        """The object, or None where there is none.

        Raises:
            ApiServerError: it is not known whether there is one.
        """
        return _answer(self.objects[ref])

    def need(self, ref: Ref) -> Object:
        """The object, for a check that has no meaning without.

        Raises:
            Skip: there is none, as another check says.
            ApiServerError: it is not known whether there is one.
        """
        found = self.find(ref)
        if found is None:
            raise Skip
        return found

    def all(self, ref: Ref) -> tuple[Object, ...]:
        """The objects of a list.

        Raises:
            ApiServerError: they are not known.
        """
        return _answer(self.lists[ref])

    def may(self, access: Access) -> bool:
        """Whether one may do that.

        Raises:
            ApiServerError: it is not known.
        """
        return _answer(self.access[access])

    def tried(self, trial: Trial) -> Object:
        """What the API server would make of the pod.

        Raises:
            ApiServerError: it would refuse it, or it is not known.
        """
        return _answer(self.trials[trial])


def _answer(found: _T | ApiServerError) -> _T:
    if isinstance(found, ApiServerError):
        raise found
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One question. ``run`` answers None where all is well, else what is wrong."""

    id: str
    text: str
    run: Callable[[Snapshot], str | None]
    fix: str
    """What to do, in one sentence."""
    why: str
    """What it means if it fails, for the docs."""
    warning: bool = False
    """Whether a fault is only a warning."""
    retriable: bool = False
    """Whether a fault may pass by itself, so that waiting helps."""
    fatal: bool = False
    """Whether nothing after it has a meaning if it fails."""

    @property
    def hint(self) -> str:
        """Where to read on."""
        return f"{DOCS}#{self.id}"


def _always(_: Options) -> bool:
    return True


def _nothing(_: Options) -> tuple[Ref, ...]:
    return ()


def _nothing_more(_: Snapshot) -> tuple[Ref, ...]:
    return ()


def _no_access(_: Options) -> tuple[Access, ...]:
    return ()


def _no_trials(_: Options) -> tuple[Trial, ...]:
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Category:
    """Checks that belong together, when they are asked, and what they have to know."""

    name: str
    checks: tuple[Check, ...]
    applies: Callable[[Options], bool] = _always
    objects: Callable[[Options], tuple[Ref, ...]] = _nothing
    lists: Callable[[Options], tuple[Ref, ...]] = _nothing
    later: Callable[[Snapshot], tuple[Ref, ...]] = _nothing_more
    """Objects whose names are in those above."""
    access: Callable[[Options], tuple[Access, ...]] = _no_access
    trials: Callable[[Options], tuple[Trial, ...]] = _no_trials


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one check."""

    category: str
    check: Check
    status: Status
    problem: str = ""
    fix: str = ""
    """What to do here: the check's, with the flags that are in force."""
