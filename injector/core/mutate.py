"""The injector as one pure function: an object and its surroundings in, what becomes of it out.

The webhook, the command and the tests all call `mutate`. No I/O, no clock, no globals.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import msgspec

from injector.core.authorship import LISTS, author_of, changes, created_by
from injector.core.conflicts import conflicts
from injector.core.decide import Decision, decide
from injector.core.fit import fit, oversize
from injector.core.marks import PROFILE, marks_of
from injector.core.model import (
    BuildInput,
    Event,
    Namespace,
    Object,
    Origin,
    Outcome,
    Owner,
    Profile,
)
from injector.core.namesakes import settle
from injector.core.opt_in import namespace_as_asked, pod_as_asked
from injector.core.pods import annotations_of
from injector.core.ports import default_opaque_ports, resolve_opaque_ports
from injector.core.reinvocation import broken_by_others, rejoin
from injector.core.resolve import inject_warnings, resolve, unknown_warnings
from injector.core.skips import SkipReason
from injector.core.splice import annotate, splice
from injector.core.uninject import uninject
from injector.core.values import Values
from vocabulary.annotations import INJECT, OPAQUE_PORTS, REDIRECT_ANNOTATION
from vocabulary.annotations.redirect import CREATED_BY, WEBHOOK

_INJECTED = Event("Injected", "Linkerd sidecar proxy injected")
_SKIPPED_TEXT = "Linkerd sidecar proxy injection skipped: "
_ASKED_IN_VAIN = frozenset(
    (
        SkipReason.ENABLE_ABSENT,
        SkipReason.INVALID_AT_NAMESPACE,
        SkipReason.INVALID_AT_WORKLOAD,
    )
)
"""Reasons behind which a typing error may stand, so that warnings about the annotations help."""


@dataclass(frozen=True, slots=True)
class _Around:
    """What an object is admitted into: the same for it, and for what it was before our work."""

    namespace: Namespace
    owner: Owner
    values: Values
    profile: Profile
    origin: Origin

    def admit(self, obj: Object) -> Admitted:
        """The object, and whether to inject it."""
        asked = pod_as_asked(obj, self.values)
        decision = decide(asked, self.namespace, self.values, self.origin)
        return Admitted(obj=obj, asked=asked, around=self, decision=decision)


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """An object at its admission, and what was decided about it; `carry_out` does that."""

    obj: Object
    asked: Object
    """The same, with its label as the annotation where the mesh is opted into by label."""
    around: _Around
    decision: Decision


def admit(
    obj: Object,
    namespace: Namespace,
    owner: Owner,
    values: Values,
    profile: Profile,
    origin: Origin,
) -> Admitted:
    """Decides about an object that is admitted: a Pod, a Service or anything else."""
    asked = namespace_as_asked(namespace, values)
    return _Around(asked, owner, values, profile, origin).admit(obj)


def mutate(
    obj: Object,
    namespace: Namespace,
    owner: Owner,
    values: Values,
    profile: Profile,
    origin: Origin,
) -> Outcome:
    """What becomes of an object that is admitted: `admit` and `carry_out` in one."""
    return carry_out(admit(obj, namespace, owner, values, profile, origin))


def carry_out(admitted: Admitted) -> Outcome:
    """What becomes of the object. It is not changed itself; a pod that has a proxy already comes
    back equal, so that a second pass adds nothing."""
    obj, around, decision = admitted.obj, admitted.around, admitted.decision
    if _is_our_work(obj, around.origin, decision):
        again = _again(obj, around)
        if again:
            return again
        if not decision.reasons:
            return Outcome(patched=obj, injected=True, annotation_at=decision.annotation_at)
    return _skip(obj, around, decision) if decision.reasons else _inject(admitted)


def _is_our_work(obj: Object, origin: Origin, decision: Decision) -> bool:
    """Whether our webhook did all that it could already: a proxy is there, or, where the proxy is
    the node's, the annotation that says so."""
    annotations = annotations_of(obj)
    if origin.by_command or not annotations.get(CREATED_BY, "").startswith(WEBHOOK + " "):
        return False
    if decision.reasons:
        return decision.reasons == (SkipReason.SIDECAR_EXISTS,)
    return bool(marks_of(annotations.get(PROFILE, "")).variables)


def _again(obj: Object, around: _Around) -> Outcome | None:
    """Our own work, met again (``reinvocationPolicy: IfNeeded``): recomputed, so that containers
    and ports which a later webhook added are seen. What others made of our containers meanwhile
    stays, unless another version of ours made them.

    None where that makes no difference, and where it would take something away: a container
    that bears one of our names may still be somebody else's. No Event tells of it a second time.
    """
    asked = {key: text for key, text in annotations_of(obj).items() if key == INJECT}
    bare = annotate(uninject(obj), asked)
    admitted = around.admit(bare)
    if admitted.decision.reasons:
        return None
    outcome = _inject(admitted)
    patched = outcome.patched
    if any(_names(obj, name) - _names(patched, name) for name in LISTS):
        return None
    found: tuple[str, ...] = ()
    if author_of(obj) == around.origin.created_by:
        found = tuple(broken_by_others(obj, patched))
        patched = rejoin(obj, patched)
    if patched == obj and not found:
        return None
    warnings = found if patched == obj else (*outcome.warnings, *found)
    return replace(outcome, patched=patched, events=(), warnings=warnings)


def _names(pod: Object, items: str) -> set[str]:
    return {item["name"] for item in pod["spec"].get(items) or ()}


def _skip(obj: Object, around: _Around, decision: Decision) -> Outcome:
    """Left alone, except for the opaque ports, which its meshed clients need to know."""
    told = annotate(obj, _opaque_ports(obj, around, decision))
    return Outcome(
        patched=obj if oversize(told) else told,
        injected=False,
        reasons=decision.reasons,
        warnings=_skip_warnings(obj, around.namespace, decision),
        events=_skip_events(obj, around.origin, decision),
        annotation_at=decision.annotation_at,
    )


def _opaque_ports(obj: Object, around: _Around, decision: Decision) -> dict[str, str]:
    """The annotation for an object that is not injected: the namespace's, else by its ports."""
    reasons, origin = decision.reasons, around.origin
    supported = obj.get("kind") in ("Pod", "Service") and SkipReason.MIRROR_POD not in reasons
    if origin.by_command or not supported or _is_ours(obj, origin, decision):
        return {}
    if OPAQUE_PORTS in annotations_of(obj):
        return {}
    ports = around.namespace.annotations.get(OPAQUE_PORTS)
    if ports is None:
        ports = default_opaque_ports(obj, around.values)
    return {OPAQUE_PORTS: ports} if ports else {}


def _is_ours(obj: Object, origin: Origin, decision: Decision) -> bool:
    """Whether this is our own work, met again: the API server calls webhooks twice."""
    met = SkipReason.SIDECAR_EXISTS in decision.reasons
    return met and author_of(obj) == origin.created_by


def _skip_warnings(obj: Object, namespace: Namespace, decision: Decision) -> tuple[str, ...]:
    if not _ASKED_IN_VAIN.intersection(decision.reasons):
        return ()
    annotations = annotations_of(obj)
    bad = inject_warnings(namespace.annotations, annotations)
    return (*bad, *unknown_warnings(annotations, "pod"))


def _skip_events(obj: Object, origin: Origin, decision: Decision) -> tuple[Event, ...]:
    """An event for pods only; none for mirrors of static pods, and none for our own work."""
    known = obj.get("kind") == "Pod" and SkipReason.MIRROR_POD not in decision.reasons
    if not known or _is_ours(obj, origin, decision):
        return ()
    texts = ", ".join(reason.text for reason in decision.reasons)
    return (Event("InjectionSkipped", _SKIPPED_TEXT + texts),)


def _inject(admitted: Admitted) -> Outcome:
    around, decision, namespace = admitted.around, admitted.decision, admitted.around.namespace
    values, origin, profile = around.values, around.origin, around.profile
    obj = _without_marks(admitted.asked)
    # For the command a namespace's annotations do not count: the webhook is to read them later.
    at_namespace = {} if origin.by_command else namespace.annotations
    resolved = resolve(values, at_namespace, annotations_of(obj))
    added = {CREATED_BY: origin.created_by, **resolved.inherited}
    opaque = _defaulted_opaque_ports(obj, added, resolved.values, origin)
    effective, opaque_warnings = _with_opaque_ports(resolved.values, opaque, obj)
    fitted = fit(obj, effective, namespace)
    pod = annotate(obj, {**added, OPAQUE_PORTS: opaque} if opaque else added)
    additions = profile.build(
        BuildInput(
            pod=pod,
            settings=values,
            values=fitted.values,
            namespace=namespace,
            owner=around.owner,
            origin=origin,
        )
    )
    settled = settle(obj, additions)
    if changed := changes(obj, additions):
        pod = annotate(pod, {CREATED_BY: created_by(origin.created_by, changed)})
    patched = obj if settled.refusal else splice(pod, settled.additions)
    if refusal := settled.refusal or oversize(patched):
        decision = Decision((settled.reason,), decision.annotation_at)
        return replace(_skip(admitted.obj, around, decision), warnings=(refusal,))
    found = (
        *fitted.warnings,
        *conflicts(obj, fitted.values, profile.name),
        *settled.warnings,
    )
    return Outcome(
        patched=patched,
        injected=True,
        conflicts=found,
        warnings=(
            *resolved.warnings,
            *opaque_warnings,
            *found,
            *_ignored(obj, at_namespace, profile),
            *additions.warnings,
        ),
        events=(_INJECTED,),
        annotation_at=decision.annotation_at,
    )


_MARKS = frozenset((REDIRECT_ANNOTATION, PROFILE))
"""What only we write. Left over in a manifest from another injection, it would mislead the CNI
plugin: rules for a proxy that this pod does not get."""


def _without_marks(pod: Object) -> Object:
    annotations = annotations_of(pod)
    if _MARKS.isdisjoint(annotations):
        return pod
    kept = {key: text for key, text in annotations.items() if key not in _MARKS}
    return {**pod, "metadata": {**pod["metadata"], "annotations": kept}}


def _ignored(obj: Object, at_namespace: Mapping[str, str], profile: Profile) -> tuple[str, ...]:
    """What to tell of annotations that mean nothing to this kind of proxy."""
    present = {*at_namespace, *annotations_of(obj)}
    keys = sorted(profile.ignores & present)
    if not keys:
        return ()
    return (f"without a meaning for profile {profile.name}: {', '.join(keys)}",)


def _defaulted_opaque_ports(
    pod: Object, added: Mapping[str, str], values: Values, origin: Origin
) -> str:
    """The pod's ports that are opaque by default, where neither it nor its namespace says which."""
    if origin.by_command or OPAQUE_PORTS in annotations_of(pod) or OPAQUE_PORTS in added:
        return ""
    return default_opaque_ports(pod, values)


def _with_opaque_ports(
    values: Values, defaulted: str, pod: Object
) -> tuple[Values, tuple[str, ...]]:
    """Settings with this pod's opaque ports as numbers: only the pod knows its ports' names.

    The defaulted annotation counts as an annotation does, and so narrows the setting down.
    """
    text, warnings = resolve_opaque_ports(defaulted or values.proxy.opaque_ports, pod)
    if text == values.proxy.opaque_ports:
        return values, warnings
    proxy = msgspec.structs.replace(values.proxy, opaque_ports=text)
    return msgspec.structs.replace(values, proxy=proxy), warnings
