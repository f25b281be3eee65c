"""Judges one pod: what it has, what it should have, and why the two differ. Pure.

It asks the webhook's own core: the pod is stripped to what its template made, and the decision
and the patch are computed anew with today's settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from injector.core.authorship import COMMAND
from injector.core.decide import Decision
from injector.core.marks import PROFILE, marks_of, untold_marks
from injector.core.model import Object, Origin, Owner
from injector.core.mutate import Admitted, admit, carry_out
from injector.core.pods import annotations_of, containers
from injector.core.resolve import inject_warnings, resolve, unknown_warnings
from injector.core.skips import SkipReason
from injector.core.uninject import uninject
from injector.profiles import get_profile
from meshgraft.audit import texts
from meshgraft.audit.drift import drift
from meshgraft.audit.misses import misses, on_workload
from meshgraft.audit.model import (
    Finding,
    Kind,
    Mesh,
    Reason,
    Subject,
    Where,
    is_ours,
    labels_of,
    moment,
)
from meshgraft.audit.state import stuck
from vocabulary.annotations import INJECT
from vocabulary.annotations.redirect import CREATED_BY, WEBHOOK
from vocabulary.version import __version__

ORIGIN = Origin(created_by=f"{WEBHOOK} {__version__}", additions=True)
_BASE = 58
"""Characters that the API server keeps of a ``generateName``."""
MeshedBy = Literal["webhook", "command", "another", ""]
_NOT_OURS = frozenset((SkipReason.MIRROR_POD, SkipReason.UNSUPPORTED_RESOURCE))


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """All that was found out about a pod; `finding` is None where it is as it should be."""

    meshed_by: MeshedBy
    admitted: Admitted
    """The pod as its template made it, and what the webhook decides about that."""
    excluded: str | None
    """Why the webhook is not asked about such a pod, or None."""
    finding: Finding | None

    @property
    def original(self) -> Object:
        """The pod as its template made it."""
        return self.admitted.obj

    @property
    def decision(self) -> Decision:
        """What the webhook decides about that."""
        return self.admitted.decision


def judge(subject: Subject, mesh: Mesh) -> Judgement:
    """Whether the pod is as the webhook would make it today, and if not, why."""
    meshed_by = who_meshed(subject.pod)
    original = as_created(subject, meshed_by)
    admitted = admit(
        original,
        subject.where.namespace,
        _owner_at_admission(subject),
        mesh.values,
        get_profile(mesh.values.meshgraft.profile),
        ORIGIN,
    )
    excluded = None
    if mesh.webhook:
        excluded = mesh.webhook.excludes(subject.where.namespace, labels_of(original))
    judgement = Judgement(
        meshed_by=meshed_by,
        admitted=admitted,
        excluded=excluded,
        finding=None,
    )
    broken = stuck(subject.pod, mesh.now) if meshed_by else ()
    kind, reasons = (Kind.STUCK, broken) if broken else _compare(subject, mesh, judgement)
    return replace(judgement, finding=_finding(subject, kind, reasons)) if kind else judgement


def _finding(subject: Subject, kind: Kind, reasons: tuple[Reason, ...]) -> Finding:
    meta = subject.pod["metadata"]
    return Finding(
        namespace=subject.where.namespace.name,
        name=meta["name"],
        owner=subject.owner,
        kind=kind,
        reasons=reasons,
    )


def who_meshed(pod: Object) -> MeshedBy:
    """Who gave the pod its proxy; empty where it has none, or another mesh's."""
    annotations = annotations_of(pod)
    by = annotations.get(CREATED_BY, "")
    names = {container.get("name") for container in containers(pod)}
    marks = marks_of(annotations.get(PROFILE, ""))
    is_there = marks.proxies & names or marks.variables or untold_marks().proxies & names
    if not is_there:
        return ""
    if by.startswith(WEBHOOK + " "):
        return "webhook"
    return "command" if by.startswith(COMMAND + " ") else "another"


def needs_template(pod: Object, where: Where) -> bool:
    """Whether the pod's annotations alone do not tell what its template says: some may have been
    handed down by its namespace, which says something else by now."""
    if who_meshed(pod) != "webhook" or not (pod["metadata"].get("ownerReferences")):
        return False
    now = where.namespace.annotations
    return any(is_ours(key) and now.get(key) != text for key, text in annotations_of(pod).items())


def as_created(subject: Subject, meshed_by: MeshedBy) -> Object:
    """The pod before the webhook had it: without the proxy, and without what was handed down."""
    pod = subject.pod
    if meshed_by != "webhook":
        return pod
    bare = uninject(pod)
    written: Mapping[str, str] = annotations_of(pod)
    if subject.template is not None:
        written = subject.template
    kept = {key: text for key, text in annotations_of(bare).items() if not is_ours(key)}
    kept |= {key: text for key, text in written.items() if is_ours(key)}
    return {**bare, "metadata": {**(bare.get("metadata") or {}), "annotations": kept}}


_Result = tuple[Kind | None, tuple[Reason, ...]]


def _compare(subject: Subject, mesh: Mesh, found: Judgement) -> _Result:
    if found.meshed_by == "webhook":
        return _meshed(subject, mesh, found)
    if found.meshed_by:
        # Made elsewhere, with settings that are not ours to know.
        return None, ()
    return _bare(subject, mesh, found)


# A pod that the webhook meshed


def _meshed(subject: Subject, mesh: Mesh, found: Judgement) -> _Result:
    if found.decision.reasons:
        texts_ = (texts.should_not(reason, subject) for reason in found.decision.reasons)
        return Kind.MESHED, tuple(texts_)
    if found.excluded:
        return Kind.MESHED, (_excluded(found.excluded, mesh, is_meshed=True),)
    outcome = carry_out(found.admitted)
    if not outcome.injected:
        return Kind.MESHED, tuple(map(texts.refused, outcome.warnings))
    changes = drift(subject.pod, outcome.patched)
    if changes:
        return Kind.DIFFERS, tuple(map(texts.differs, changes))
    without_effect = _without_effect(subject, mesh, found)
    if outcome.conflicts:
        return Kind.CONFLICTS, (*map(texts.conflict, outcome.conflicts), *without_effect)
    return (Kind.NOT_USED, without_effect) if without_effect else (None, ())


def _excluded(text: str, mesh: Mesh, *, is_meshed: bool) -> Reason:
    return texts.excluded(text, is_meshed=is_meshed, by_label=mesh.by_label)


def _owner_at_admission(subject: Subject) -> Owner:
    """Whom the webhook took for the workload: a pod that stands for itself has no name yet, where
    the API server makes one up from ``generateName``."""
    meta = subject.pod["metadata"]
    prefix = meta.get("generateName") or ""
    if subject.owner.kind != "pod" or not prefix or not meta["name"].startswith(prefix[:_BASE]):
        return subject.owner
    return replace(subject.owner, name=prefix)


def _without_effect(subject: Subject, mesh: Mesh, found: Judgement) -> tuple[Reason, ...]:
    """Annotations that do nothing: bad values, misspelt keys, the wrong place. What is wrong on
    the namespace is reported once, with the namespace."""
    own = annotations_of(found.original)
    reasons = [texts.not_used(text) for text in resolve(mesh.values, {}, own).warnings]
    for key, value in subject.workload.items():
        if key != INJECT and key not in annotations_of(subject.pod):
            reasons.append(on_workload(key, value, subject.owner))
    return tuple(reasons)


# A pod without a proxy


def _bare(subject: Subject, mesh: Mesh, found: Judgement) -> _Result:
    reasons = found.decision.reasons
    if _NOT_OURS.intersection(reasons) or SkipReason.DISABLED in reasons:
        return None, ()
    if SkipReason.ENABLE_ABSENT in reasons:
        signs = tuple(misses(subject, by_label=mesh.by_label))
        return (Kind.NOT_MESHED, signs) if signs else (None, ())
    if reasons:
        blocked = tuple(texts.blocked(reason, subject) for reason in reasons)
        return Kind.NOT_MESHED, blocked
    if found.excluded:
        return Kind.NOT_MESHED, (_excluded(found.excluded, mesh, is_meshed=False),)
    outcome = carry_out(found.admitted)
    if not outcome.injected:
        return Kind.NOT_MESHED, tuple(map(texts.refused, outcome.warnings))
    return Kind.NOT_MESHED, (missed(subject, mesh, found),)


def missed(subject: Subject, mesh: Mesh, found: Judgement) -> Reason:
    """Why the webhook never saw a pod that it would have given a proxy."""
    born = moment(subject.pod["metadata"].get("creationTimestamp"))
    webhook, annotated = mesh.webhook, subject.where.annotated_at
    if webhook is None:
        return texts.no_webhook(mesh) if mesh.webhook_known else texts.away(mesh)
    if born and webhook.created_at and born < webhook.created_at:
        return texts.before_webhook(born, webhook.created_at)
    if found.decision.annotation_at == "namespace" and born and annotated and born < annotated:
        return texts.before_annotation(born, annotated)
    return texts.away(mesh)


def judge_namespace(where: Where) -> tuple[Reason, ...]:
    """What is written on a namespace and has no effect on any pod."""
    annotations = where.namespace.annotations
    found = [*inject_warnings(annotations, {}), *unknown_warnings(annotations, "namespace")]
    return tuple(map(texts.not_used, dict.fromkeys(found)))
