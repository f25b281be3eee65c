"""What people write when they want a proxy and do not get one: a label, the wrong place, a typo."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping

from injector.core.model import Owner
from injector.core.pods import annotations_of
from meshgraft.audit.model import Reason, Subject, labels_of
from vocabulary.annotations import INJECT

WANTED = frozenset(("enabled", "ingress"))
_NO = frozenset(("disabled", "false", "no", "off"))
_CUTOFF = 0.8
"""How near a key must be: linkerd.io/injekt is, sidecar.istio.io/inject is not."""
_LONGEST = 32
"""Longer keys are never that near; they are not looked at."""
_KINDS = {
    "cronjob": "CronJob",
    "daemonset": "DaemonSet",
    "deployment": "Deployment",
    "job": "Job",
    "replicaset": "ReplicaSet",
    "replicationcontroller": "ReplicationController",
    "rollout": "Rollout",
    "statefulset": "StatefulSet",
}


def misses(subject: Subject, *, by_label: bool = False) -> Iterator[Reason]:
    """Signs that somebody wants a proxy for a pod that nothing valid asks one for.

    ``by_label``: it is asked for by label in this cluster, not by annotation.
    """
    namespace = subject.where.namespace
    places = (
        ("pod", annotations_of(subject.pod), labels_of(subject.pod)),
        (f"namespace {namespace.name}", namespace.annotations, namespace.labels),
    )
    for place, texts, labels in places:
        if by_label:
            yield from _elsewhere(place, texts, "annotation", "label")
        else:
            yield from _elsewhere(place, labels, "label", "annotation")
        yield from _typos(place, {**labels, **texts})
    if subject.workload.get(INJECT) in WANTED:
        yield on_workload(INJECT, subject.workload[INJECT], subject.owner)


def workload_name(owner: Owner) -> str:
    """The kind as the API spells it, for sentences."""
    return _KINDS.get(owner.kind, owner.kind)


def on_workload(key: str, value: str, owner: Owner) -> Reason:
    """An annotation on the workload's own metadata, where nobody reads it."""
    kind = workload_name(owner)
    return Reason(
        "annotation-on-workload",
        f'"{key}: {value}" is on the {kind}, not on its pod template',
        f"Move the annotation to spec.template.metadata.annotations of {owner.kind}/{owner.name}.",
    )


def _elsewhere(place: str, texts: Mapping[str, str], is_a: str, must_be: str) -> Iterator[Reason]:
    if texts.get(INJECT) in WANTED:
        yield Reason(
            f"{is_a}-instead-of-{must_be}",
            f'"{INJECT}: {texts[INJECT]}" is {_AN[is_a]} of the {place}; it counts as'
            f" {_AN[must_be]} only",
            f"Write it among the {must_be}s of the {_editable(place)}.",
        )


_AN = {"label": "a label", "annotation": "an annotation"}


def _typos(place: str, texts: Mapping[str, str]) -> Iterator[Reason]:
    for key, value in texts.items():
        if key != INJECT and value.lower() not in _NO and is_near_inject(key):
            yield Reason(
                "mistyped-key",
                f'"{key}: {value}" on the {place} looks like "{INJECT}", and has no effect',
                f'Write "{INJECT}: enabled" among the annotations of the {_editable(place)}.',
            )


def is_near_inject(key: str) -> bool:
    """Whether a key may be a misspelling of ``linkerd.io/inject``."""
    low = key.lower()
    if len(key) > _LONGEST or not ("linkerd" in low or "inject" in low):
        return False
    return difflib.SequenceMatcher(None, low, INJECT).ratio() >= _CUTOFF


def _editable(place: str) -> str:
    """A pod is made from a template: that is where to write."""
    return "pod template" if place == "pod" else place
