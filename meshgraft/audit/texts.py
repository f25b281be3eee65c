"""The reasons of an audit, in words, each with what to do in one sentence."""

from __future__ import annotations

from datetime import datetime

from injector.core.decide import has_sidecar
from injector.core.model import Object
from injector.core.pods import annotations_of
from injector.core.skips import WORDS, SkipReason
from meshgraft.audit.model import Mesh, Reason, Subject
from vocabulary.annotations import INJECT

_MEANT = f'or write "{INJECT}: disabled" on the pod template if it is meant so.'
_RESTART = "Restart its owner, so that its pods are made anew: meshgraft audit --restart."


def blocked(reason: SkipReason, subject: Subject) -> Reason:
    """Why a pod that asks for a proxy cannot get one."""
    words = WORDS[reason]
    return Reason(
        _code(reason), _filled(words.blocked, reason, subject), _filled(words.fix, reason, subject)
    )


def should_not(reason: SkipReason, subject: Subject) -> Reason:
    """Why a pod that has a proxy would get none today."""
    text = _filled(WORDS[reason].no_longer, reason, subject)
    return Reason(_code(reason), text, _RESTART, restart=True)


def _code(reason: SkipReason) -> str:
    return reason.value.replace("_", "-")


def _filled(text: str, reason: SkipReason, subject: Subject) -> str:
    namespace = subject.where.namespace
    return text.format(
        text=reason.text,
        meant=_MEANT,
        namespace=namespace.name,
        at_namespace=namespace.annotations.get(INJECT, ""),
        at_pod=annotations_of(subject.pod).get(INJECT, ""),
        sidecars=", ".join(sidecars(subject.pod)),
    )


def sidecars(pod: Object) -> list[str]:
    """The names of the containers that are a proxy, or belong to one."""
    return [
        container["name"]
        for section in ("initContainers", "containers")
        for container in pod["spec"].get(section) or ()
        if has_sidecar({"spec": {section: [container]}})
    ]


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
    """What does not go together, in the words of the webhook's warnings, with the fix."""
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
