"""Explains one pod in sentences: each step of the decision, with the value and where it is from."""

from __future__ import annotations

from collections.abc import Iterator

from injector.core.decide import has_sidecar, is_windows
from injector.core.model import Object
from injector.core.pods import annotations_of
from injector.core.skips import SkipReason
from meshgraft.audit.judge import Judgement
from meshgraft.audit.misses import workload_name
from meshgraft.audit.model import Mesh, Reason, Subject
from meshgraft.audit.texts import sidecars
from vocabulary.annotations import ANNOTATIONS, INJECT

OK, BAD = "√", "×"
_WHO = {
    "webhook": "the webhook gave it a proxy",
    "command": "it was given a proxy by meshgraft inject --manual: renew it there",
    "another": "Linkerd's own injector gave it a proxy: it is not ours to judge",
}


def explain(subject: Subject, mesh: Mesh, found: Judgement) -> str:
    """The whole explanation, ending with what to do where something is wrong."""
    meta = subject.pod["metadata"]
    name = f"{subject.where.namespace.name}/{meta['name']}"
    owner = "" if subject.owner.kind == "pod" else f" of {subject.owner.kind}/{subject.owner.name}"
    lines = [f"pod {name}{owner}: {_summary(found)}", ""]
    lines += [f"  {OK if good else BAD} {text}" for good, text in _steps(subject, mesh, found)]
    if found.finding:
        lines += ["", *_told(found.finding.reasons)]
    lines += ["", "settings of its proxy:", *_settings(subject, mesh, found)]
    return "\n".join(lines) + "\n"


def _summary(found: Judgement) -> str:
    has = _WHO.get(found.meshed_by) or "it has no proxy"
    if found.finding is None:
        return has if found.meshed_by in ("command", "another") else f"{has}, as it should be"
    return f"{has}; {_VERDICTS[found.finding.kind]}"


_VERDICTS = {
    "not meshed": "it should have one",
    "meshed": "it should have none",
    "differs": "today's settings would give it another",
    "not used": "something that was written for it has no effect",
}


def _told(reasons: tuple[Reason, ...]) -> Iterator[str]:
    for reason in reasons:
        yield f"  {BAD} {reason.text}"
    yield ""
    yield "what to do:"
    for fix in dict.fromkeys(reason.fix for reason in reasons):
        yield f"  {fix}"


def _steps(subject: Subject, mesh: Mesh, found: Judgement) -> Iterator[tuple[bool, str]]:
    reasons = frozenset(found.decision.reasons)
    if SkipReason.MIRROR_POD in reasons:
        yield True, "it is the mirror of a static pod, which nothing may change"
        return
    yield _asked(subject, found)
    spec = subject.pod["spec"]
    host = bool(spec.get("hostNetwork"))
    yield not host, f"hostNetwork: {'true' if host else 'false'} ({_from(spec, 'hostNetwork')})"
    windows = is_windows(subject.pod)
    origin = "from the pod" if windows or "os" in spec else "default"
    yield not windows, f"os.name: {'windows' if windows else 'linux'} ({origin})"
    others = sidecars(found.original)
    if not others and has_sidecar(found.original):
        others = ["Istio's ambient mode"]
    yield not others, f"other sidecars: {', '.join(others) or 'none'} (the pod's containers)"
    yield _token(spec, mesh, reasons)
    yield from _webhook(mesh, found)


def _from(spec: Object, field: str) -> str:
    return "from the pod" if field in spec else "default"


def _asked(subject: Subject, found: Judgement) -> tuple[bool, str]:
    namespace = subject.where.namespace
    own = annotations_of(found.original).get(INJECT)
    above = namespace.annotations.get(INJECT)
    said = [
        f'the pod says "{own}"' if own is not None else "the pod says nothing",
        f'namespace {namespace.name} says "{above}"'
        if above is not None
        else f"namespace {namespace.name} says nothing",
    ]
    against = {
        SkipReason.DISABLED,
        SkipReason.ENABLE_ABSENT,
        SkipReason.INVALID_AT_NAMESPACE,
        SkipReason.INVALID_AT_WORKLOAD,
    }
    if against.intersection(found.decision.reasons):
        decided = "no proxy is asked for" + (" (default)" if own is above is None else "")
        return False, f"{INJECT}: {', '.join(said)}: {decided}"
    which = {"namespace": "the namespace", "workload": "the pod"}[found.decision.annotation_at]
    return True, f"{INJECT}: {', '.join(said)}: {which} decides, a proxy is asked for"


def _token(spec: Object, mesh: Mesh, reasons: frozenset[SkipReason]) -> tuple[bool, str]:
    projected = mesh.values.identity.service_account_token_projection
    mounted = spec.get("automountServiceAccountToken") is not False
    good = SkipReason.NO_SERVICE_ACCOUNT_TOKEN not in reasons
    return good, (
        "service account token: "
        f"identity.serviceAccountTokenProjection: {str(projected).lower()} ({mesh.source}), "
        f"automountServiceAccountToken: {str(mounted).lower()} "
        f"({_from(spec, 'automountServiceAccountToken')})"
    )


def _webhook(mesh: Mesh, found: Judgement) -> Iterator[tuple[bool, str]]:
    if not mesh.webhook_known:
        yield False, f"MutatingWebhookConfiguration {mesh.webhook_name}: not allowed to look"
    elif mesh.webhook is None:
        yield False, f"MutatingWebhookConfiguration {mesh.webhook_name}: there is none"
    elif found.excluded:
        yield False, found.excluded
    else:
        yield True, f"{mesh.webhook_name}: its selectors take the pod and its namespace"
        if mesh.webhook.has_conditions:
            yield True, "it has matchConditions too, which were not evaluated here"


def _settings(subject: Subject, mesh: Mesh, found: Judgement) -> Iterator[str]:
    """What annotations set, and where the rest comes from."""
    own = annotations_of(found.original)
    above = subject.where.namespace.annotations
    for row in ANNOTATIONS:
        if row.key == INJECT:
            continue
        if row.key in own:
            yield f"  {row.key}: {own[row.key]!r} (from the pod)"
        elif row.key in above:
            yield f"  {row.key}: {above[row.key]!r} (from namespace {subject.where.namespace.name})"
    for key in sorted(subject.workload.keys() - own.keys() - {INJECT}):
        yield f"  {key}: no effect, it is on the {workload_name(subject.owner)} only"
    yield f"  profile {mesh.values.meshgraft.profile}, and all others: from {mesh.source}"
