"""Injects objects of manifests, as Linkerd's command does: whole, or by annotation only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from injector.core.authorship import COMMAND, Record, created_by
from injector.core.conflicts import conflicts
from injector.core.fit import fit
from injector.core.model import Namespace, Object, Origin, Owner, Profile
from injector.core.mutate import admit, mutate
from injector.core.pods import annotations_of
from injector.core.resolve import resolve
from injector.core.skips import SkipReason
from injector.core.splice import annotate
from injector.core.uninject import CONTROL_PLANE_COMPONENT, is_mark, uninject
from injector.core.values import Values
from injector.core.workloads import is_core, pod_of, pod_path, with_pod
from injector.manifests.objects import (
    Problem,
    Refusal,
    Report,
    Rule,
    Status,
    check_own_metadata,
    describe,
)
from vocabulary.annotations import INJECT, OPAQUE_PORTS
from vocabulary.annotations.redirect import CREATED_BY


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """What to inject: settings with the flags laid over them, and what they leave behind.

    ``overrides`` are annotations that say what the flags said; ``config`` are annotations that
    were asked for as such. Both are written to every object; ``config`` also counts as the pod's
    own, so that it acts as an annotation does.
    """

    values: Values
    profile: Profile
    version: str
    manual: bool = False
    overrides: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, str] = field(default_factory=dict)

    @property
    def author(self) -> str:
        """What ``linkerd.io/created-by`` says of who injected."""
        return f"{COMMAND} {self.version}".rstrip()


def inject_rule(how: How) -> Rule:
    """The rule of ``inject``: first uninjects, so that a second injection renews the first."""

    def rule(obj: Object) -> tuple[Object, Report]:
        check_own_metadata(obj)
        bare = uninject(obj, owners_inject=True)
        if is_core(obj, "Namespace") or is_core(obj, "Service"):
            return _annotate_object(obj, bare, how)
        path = pod_path(obj)
        if path is None:
            return obj, describe(obj)
        return _inject_workload(_Workload(obj, bare, path), how)

    return rule


def _annotate_object(obj: Object, bare: Object, how: How) -> tuple[Object, Report]:
    """A Namespace hands everything down to its pods; a Service tells its opaque ports."""
    wanted = {**how.overrides, **how.config}
    if is_core(obj, "Namespace"):
        wanted = {INJECT: _inject_value(obj), **wanted}
    else:
        wanted = {key: text for key, text in wanted.items() if key == OPAQUE_PORTS}
    report = describe(obj)
    after = _recorded(annotate(bare, wanted), _changes(bare, wanted), how)
    status: Status = "annotated" if wanted else "skipped"
    return after, Report(kind=report.kind, name=report.name, status=status, supported=True)


def _inject_value(obj: Object) -> str:
    """``enabled``; but who wrote ``ingress`` meant it."""
    return "ingress" if annotations_of(obj).get(INJECT) == "ingress" else "enabled"


def _recorded(obj: Object, changed: Record, how: How) -> Object:
    """The object with a record of what uninject could not tell; as it is where that is nothing."""
    return annotate(obj, {CREATED_BY: created_by(how.author, changed)} if changed else {})


def _changes(bare: Object, wanted: Mapping[str, str]) -> dict[str, str | None]:
    """What uninject cannot tell otherwise: all that is changed, and whose ``linkerd.io/inject``
    it is."""
    before = annotations_of(bare)
    changed = {
        key: before.get(key)
        for key, text in wanted.items()
        if key == INJECT or before.get(key) != text
    }
    own = before.get(INJECT)
    return {INJECT: own, **changed} if own is not None and is_mark(INJECT, own) else changed


@dataclass(frozen=True, slots=True)
class _Workload:
    """An object with a pod in it: as it came, and without what an earlier inject added."""

    obj: Object
    bare: Object
    path: tuple[str, ...]

    @property
    def original(self) -> Object:
        return pod_of(self.obj, self.path)

    @property
    def pod(self) -> Object:
        return pod_of(self.bare, self.path)

    @property
    def namespace(self) -> Namespace:
        return Namespace((self.obj.get("metadata") or {}).get("namespace") or "")

    @property
    def owner(self) -> Owner:
        metadata = self.obj.get("metadata") or {}
        return Owner(self.obj["kind"].lower(), metadata.get("name") or "")

    def field(self, name: str) -> str:
        return ".".join((*self.path, "spec", name))


def _inject_workload(given: _Workload, how: How) -> tuple[Object, Report]:
    pod = given.pod
    labels = (pod.get("metadata") or {}).get("labels") or {}
    if CONTROL_PLANE_COMPONENT in labels and not how.manual:
        message = "--manual must be set when injecting control plane components"
        where = ".".join((*given.path, "metadata", "labels", CONTROL_PLANE_COMPONENT))
        raise Refusal(Problem(message, where), _report(given, (), "skipped"))
    origin = Origin(created_by=how.author, additions=False)
    admitted = admit(pod, given.namespace, given.owner, how.values, how.profile, origin)
    if reasons := admitted.decision.reasons:
        return given.bare, _skipped(given, reasons)
    after, warnings = _inject_whole(given, how) if how.manual else _ask(given, how)
    return after, _report(given, (), "injected", warnings)


_NEVER_MESHED = (SkipReason.MIRROR_POD, SkipReason.WINDOWS)
_FIELDS = {
    SkipReason.NO_SERVICE_ACCOUNT_TOKEN: "automountServiceAccountToken",
    SkipReason.HOST_NETWORK: "hostNetwork",
    SkipReason.SIDECAR_EXISTS: "containers",
}
"""What makes injection fail, in the order in which Linkerd names it, and the field at fault."""


def _skipped(given: _Workload, reasons: tuple[SkipReason, ...]) -> Report:
    """The report of a workload that its owner keeps out.

    Raises:
        Refusal: it should have been injected and cannot be (Linkerd's order of reasons).
    """
    left_out = tuple(reason.text for reason in reasons if reason in _NEVER_MESHED)
    report = _report(given, reasons, "skipped", left_out)
    if SkipReason.DISABLED in reasons or left_out:
        return report
    found = [reason for reason in _FIELDS if reason in reasons]
    raise _refusal(given, report, ", ".join(reason.text for reason in found), _FIELDS[found[0]])


def _refusal(given: _Workload, report: Report, why: str, name: str) -> Refusal:
    return Refusal(Problem(f"failed to inject {report.resource}: {why}", given.field(name)), report)


def _report(
    given: _Workload,
    reasons: tuple[SkipReason, ...],
    status: Status,
    warnings: tuple[str, ...] = (),
) -> Report:
    described = describe(given.obj)
    return Report(
        kind=described.kind,
        name=described.name,
        status=status,
        supported=True,
        host_network=SkipReason.HOST_NETWORK in reasons,
        sidecar=SkipReason.SIDECAR_EXISTS in reasons,
        disabled=SkipReason.DISABLED in reasons,
        no_token=SkipReason.NO_SERVICE_ACCOUNT_TOKEN in reasons,
        udp=_has_udp(given.pod),
        warnings=warnings,
    )


def _has_udp(pod: Object) -> bool:
    return any(
        port.get("protocol") == "UDP"
        for container in pod["spec"].get("containers") or ()
        for port in container.get("ports") or ()
    )


def _ask(given: _Workload, how: How) -> tuple[Object, tuple[str, ...]]:
    """The workload with annotations on its pod that make the webhook inject it as asked.

    The record goes to the workload itself: on a pod ``linkerd.io/created-by`` says that it has a
    proxy, which the CNI plugin believes.
    """
    wanted = {INJECT: _inject_value(given.original), **how.overrides, **how.config}
    pod = annotate(given.pod, wanted)
    after = _recorded(with_pod(given.bare, given.path, pod), _changes(given.pod, wanted), how)
    resolved = resolve(how.values, {}, annotations_of(pod))
    fitted = fit(pod, resolved.values, given.namespace)
    found = conflicts(pod, fitted.values, how.profile.name)
    return after, (*resolved.warnings, *fitted.warnings, *found)


def _inject_whole(given: _Workload, how: How) -> tuple[Object, tuple[str, ...]]:
    """The workload with the proxy in its pod."""
    wanted = {**how.overrides, **how.config}
    if _inject_value(given.original) == "ingress":
        wanted = {INJECT: "ingress", **wanted}
    record = _changes(given.pod, wanted)
    # Flags are in the settings already, and win over the pod's own annotations of that meaning.
    # What asks the webhook means nothing beside a proxy; Linkerd's command drops it too.
    asked = {} if INJECT in wanted else {INJECT: ""}
    pod = _without_annotations(given.pod, {**asked, **how.overrides})
    pod = annotate(pod, {key: text for key, text in wanted.items() if key not in how.overrides})
    outcome = mutate(
        pod,
        given.namespace,
        given.owner,
        how.values,
        how.profile,
        Origin(created_by=created_by(how.author, record), additions=False),
    )
    if not outcome.injected:
        why = ", ".join(outcome.warnings or [reason.text for reason in outcome.reasons])
        raise _refusal(given, _report(given, outcome.reasons, "skipped"), why, "containers")
    pod = annotate(outcome.patched, wanted)
    return with_pod(given.bare, given.path, pod), outcome.warnings


def _without_annotations(pod: Object, keys: Mapping[str, str]) -> Object:
    present = annotations_of(pod)
    if not present.keys() & keys.keys():
        return pod
    kept = {key: text for key, text in present.items() if key not in keys}
    return {**pod, "metadata": {**pod["metadata"], "annotations": kept}}
