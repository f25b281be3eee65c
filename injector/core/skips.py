"""Why a pod is left alone: the reasons, and all that is said about each."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from vocabulary.annotations import INJECT


class SkipReason(StrEnum):
    """Linkerd's codes, in the order in which they are evaluated."""

    MIRROR_POD = "mirror_pod"
    """Ours: the kubelet's image of a static pod, which nothing may change."""
    HOST_NETWORK = "host_network_enabled"
    WINDOWS = "windows_pod"
    """Ours: the API server refuses a Windows pod with a Linux container's security context."""
    SIDECAR_EXISTS = "sidecar_already_exists"
    UNSUPPORTED_RESOURCE = "unsupported_resource"
    INVALID_AT_NAMESPACE = "invalid_inject_annotation_at_ns"
    INVALID_AT_WORKLOAD = "invalid_inject_annotation_at_workload"
    DISABLED = "injection_disable_annotation_present"
    ENABLE_ABSENT = "injection_enable_annotation_absent"
    CONFLICT = "conflict"
    """Ours: what the proxy needs cannot be put into the pod; the warning says what."""
    NO_SERVICE_ACCOUNT_TOKEN = "disabled_automount_service_account_token_account"  # noqa: S105

    @property
    def text(self) -> str:
        """The sentence of Linkerd's events and reports."""
        return WORDS[self].text


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What is said about one reason. The audit's texts may hold ``{namespace}``, ``{at_namespace}``
    and ``{at_pod}`` (the values of ``linkerd.io/inject``), and ``{sidecars}``."""

    text: str
    """Linkerd's sentence, for events and reports."""
    blocked: str = "{text}"
    """Why a pod that asks for a proxy cannot get one."""
    fix: str = "Fix it, {meant}"
    no_longer: str = "{text}"
    """Why a pod that has a proxy would get none today."""


_INVALID = f'"{INJECT}: {{value}}" on the {{place}}: expected enabled, ingress or disabled'
_WRITE = f'Write "{INJECT}: enabled" or "{INJECT}: disabled" on the {{place}}.'
_AT_NAMESPACE, _AT_POD = "namespace {namespace}", "pod template"

WORDS = {
    SkipReason.MIRROR_POD: Words(text="pod is the mirror of a static pod"),
    SkipReason.HOST_NETWORK: Words(
        text="hostNetwork is enabled",
        blocked="hostNetwork is enabled: its traffic is the node's own, and cannot be redirected",
        fix="Set hostNetwork: false, {meant}",
    ),
    SkipReason.WINDOWS: Words(
        text="pod is for Windows, where the proxy does not run",
        fix=f'Leave it out of the mesh: write "{INJECT}: disabled" on the pod template if it is'
        " meant so.",
    ),
    SkipReason.SIDECAR_EXISTS: Words(
        text="pod has a sidecar injected already",
        blocked="another sidecar is there already ({sidecars})",
        fix="Take the other mesh's sidecar away, {meant}",
    ),
    SkipReason.UNSUPPORTED_RESOURCE: Words(text="this resource kind is unsupported"),
    SkipReason.INVALID_AT_NAMESPACE: Words(
        text='invalid value for annotation "linkerd.io/inject" at namespace',
        blocked=_INVALID.format(value="{at_namespace}", place=_AT_NAMESPACE),
        fix=_WRITE.format(place=_AT_NAMESPACE),
    ),
    SkipReason.INVALID_AT_WORKLOAD: Words(
        text='invalid value for annotation "linkerd.io/inject" at workload',
        blocked=_INVALID.format(value="{at_pod}", place=_AT_POD),
        fix=_WRITE.format(place=_AT_POD),
    ),
    SkipReason.DISABLED: Words(
        text='pod has the annotation "linkerd.io/inject:disabled"',
        no_longer=f'the pod template says "{INJECT}: disabled"',
    ),
    SkipReason.ENABLE_ABSENT: Words(
        text='neither the namespace nor the pod have the annotation "linkerd.io/inject:enabled"',
        no_longer="neither namespace {namespace} nor the pod template says"
        f' "{INJECT}: enabled" any more',
    ),
    SkipReason.CONFLICT: Words(text="what the proxy needs cannot be put into the pod"),
    SkipReason.NO_SERVICE_ACCOUNT_TOKEN: Words(
        text='automountServiceAccountToken set to "false", '
        'with Values.identity.serviceAccountTokenProjection set to "false"',
        blocked="no service account token is mounted (automountServiceAccountToken: false), and"
        " the settings project none",
        fix="Set identity.serviceAccountTokenProjection: true in the settings, or mount the token;"
        " {meant}",
    ),
}
"""Every reason is in it: a test holds it to that."""
