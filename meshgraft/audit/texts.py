"""The reasons of an audit, in words, each with what to do in one sentence."""

from __future__ import annotations

from datetime import datetime

from injector.core.decide import has_sidecar
from injector.core.model import Object, SkipReason
from injector.core.pods import annotations_of
from meshgraft.audit.model import Mesh, Reason, Subject
from vocabulary.annotations import INJECT

_MEANT = f'or write "{INJECT}: disabled" on the pod template if it is meant so.'
_RESTART = "Restart its owner, so that its pods are made anew: meshgraft audit --restart."


def blocked(reason: SkipReason, subject: Subject) -> Reason:
    """Why a pod that asks for a proxy cannot get one."""
    code = reason.value.replace("_", "-")
    annotations = subject.where.namespace.annotations
    if reason is SkipReason.HOST_NETWORK:
        text = "hostNetwork is enabled: its traffic is the node's own, and cannot be redirected"
        return Reason(code, text, f"Set hostNetwork: false, {_MEANT}")
    if reason is SkipReason.SIDECAR_EXISTS:
        names = ", ".join(sidecars(subject.pod))
        text = f"another sidecar is there already ({names})"
        return Reason(code, text, f"Take the other mesh's sidecar away, {_MEANT}")
    if reason is SkipReason.WINDOWS:
        return Reason(code, reason.text, f"Leave it out of the mesh: {_MEANT[3:]}")
    if reason is SkipReason.NO_SERVICE_ACCOUNT_TOKEN:
        text = (
            "no service account token is mounted (automountServiceAccountToken: false), and the"
            " settings project none"
        )
        fix = "Set identity.serviceAccountTokenProjection: true in the settings, or mount the token"
        return Reason(code, text, f"{fix}; {_MEANT}")
    if reason is SkipReason.INVALID_AT_NAMESPACE:
        return _invalid(code, f"namespace {subject.where.namespace.name}", annotations[INJECT])
    if reason is SkipReason.INVALID_AT_WORKLOAD:
        return _invalid(code, "pod template", annotations_of(subject.pod)[INJECT])
    return Reason(code, reason.text, f"Fix it, {_MEANT}")


def sidecars(pod: Object) -> list[str]:
    """The names of the containers that are a proxy, or belong to one."""
    return [
        container["name"]
        for section in ("initContainers", "containers")
        for container in pod["spec"].get(section) or ()
        if has_sidecar({"spec": {section: [container]}})
    ]


def _invalid(code: str, place: str, value: str) -> Reason:
    return Reason(
        code,
        f'"{INJECT}: {value}" on the {place}: expected enabled, ingress or disabled',
        f'Write "{INJECT}: enabled" or "{INJECT}: disabled" on the {place}.',
    )


def should_not(reason: SkipReason, subject: Subject) -> Reason:
    """Why a pod that has a proxy would get none today."""
    code = reason.value.replace("_", "-")
    text = reason.text
    if reason is SkipReason.ENABLE_ABSENT:
        text = (
            f'neither namespace {subject.where.namespace.name} nor the pod template says "{INJECT}:'
            ' enabled" any more'
        )
    elif reason is SkipReason.DISABLED:
        text = f'the pod template says "{INJECT}: disabled"'
    return Reason(code, text, _RESTART, restart=True)


def excluded(text: str, *, is_meshed: bool, by_label: bool) -> Reason:
    """The webhook is not asked about the pod: a namespace's or a pod's label."""
    if is_meshed:
        return Reason("excluded-by-label", f"{text}; a new pod would get no proxy", _RESTART, True)
    fix = "Remove that label, or the annotation that asks for a proxy."
    if by_label:
        fix = f"Label the namespace or the pod template: {INJECT}=enabled."
    return Reason("excluded-by-label", text, fix)


def refused(warning: str) -> Reason:
    """The core left the pod alone for a reason of its own."""
    return Reason("left-alone", warning, "Change the pod template as it says.")


def not_used(warning: str) -> Reason:
    """An annotation without effect, in the words of the webhook's warnings."""
    return Reason("annotation-not-used", warning, "Fix the annotation where it was written.")


def conflict(warning: str) -> Reason:
    """What does not go together, in the words of the webhook's warnings, with the cure."""
    return Reason("conflict", warning, "Change the pod template as it says.")


def differs(text: str) -> Reason:
    """One difference between the proxy that is there and the one that would be."""
    return Reason("differs", text, _RESTART, restart=True)


def no_webhook(mesh: Mesh) -> Reason:
    """Nobody is asked about pods."""
    text = f"there is no MutatingWebhookConfiguration {mesh.webhook_name}"
    return Reason("no-webhook", text, "Install the injector (meshgraft install), then restart.")


def before_webhook(born: datetime, registered: datetime) -> Reason:
    """The pod is older than the webhook."""
    text = f"created before the webhook was registered ({_time(born)}, {_time(registered)})"
    return Reason("older-than-webhook", text, _RESTART, restart=True)


def before_annotation(born: datetime, annotated: datetime) -> Reason:
    """The pod is older than its namespace's annotation."""
    text = f"created before its namespace was annotated ({_time(born)}, {_time(annotated)})"
    return Reason("older-than-annotation", text, _RESTART, restart=True)


def away(mesh: Mesh) -> Reason:
    """Nothing speaks against a proxy: the webhook was not asked, or did not answer."""
    text = "created while the webhook was away, or before its namespace was annotated"
    webhook = mesh.webhook
    if webhook and webhook.failure_policy == "Ignore":
        text += " (failurePolicy Ignore lets such pods through)"
    if webhook and webhook.has_conditions:
        text += "; or the webhook's matchConditions keep it away"
    return Reason("webhook-was-away", text, _RESTART, restart=True)


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
