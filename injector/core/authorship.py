"""What inject changed, remembered in the object itself: so that nobody has to guess whose it is.

The record is JSON behind the injector's name in ``linkerd.io/created-by``: an annotation that is
Linkerd's, and of which nobody reads the rest of the value. It holds only what name and mark do
not tell, so most pods have none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from injector.core.marks import (
    CONTROL_PLANE_NS_LABEL,
    DEFAULT_CONTAINER,
    SAFE_TO_EVICT,
    WORKLOAD_NS_LABEL,
    all_marks,
)
from injector.core.model import Additions, Object
from injector.core.pods import annotations_of, containers
from vocabulary.annotations import ALPHA_PREFIX, BETA_PREFIX, INJECT, PREFIX
from vocabulary.annotations.redirect import CREATED_BY, WEBHOOK

COMMAND = "meshgraft/cli"
"""How the value of created-by begins where the command injected."""
Record = Mapping[str, str | None]
"""Annotations that people also write, each with its value before (None: absent); and under the
keys below, names joined by commas."""

LISTS = ("initContainers", "containers", "volumes")
"""The parts of a pod's spec to which inject adds, each item with a name."""
_LABELS = frozenset((CONTROL_PLANE_NS_LABEL, WORKLOAD_NS_LABEL))
_LABEL_PREFIX = "linkerd.io/proxy-"
PULL_SECRETS = "added:imagePullSecrets"
_OWN = "own:"
_OWN_ENV = "env:"
_LABEL = "label:"
_SETTINGS = (PREFIX, BETA_PREFIX, ALPHA_PREFIX)
_CONVENIENCE = (DEFAULT_CONTAINER, SAFE_TO_EVICT)


def own_names(record: Record, items: str) -> frozenset[str]:
    """Names among ``items`` (one of `LISTS`) that are the pod's own, although inject uses them."""
    return frozenset((record.get(_OWN + items) or "").split(","))


def own_variables(record: Record, container: str) -> frozenset[str]:
    """Variables that the container had itself, although profile ``node`` sets them too."""
    return frozenset((record.get(_OWN_ENV + container) or "").split(","))


def annotations_before(record: Record) -> dict[str, str | None]:
    """The annotations that inject changed, with their values before."""
    return {key: text for key, text in record.items() if _is_annotation(key)}


def labels_before(record: Record) -> dict[str, str]:
    """The labels that inject overwrote, with their values before."""
    return {
        key.removeprefix(_LABEL): text
        for key, text in record.items()
        if key.startswith(_LABEL) and text is not None
    }


def added_pull_secrets(record: Record) -> frozenset[str]:
    """Names of the imagePullSecrets that inject added."""
    return frozenset((record.get(PULL_SECRETS) or "").split(","))


def changes(pod: Object, additions: Additions) -> dict[str, str | None]:
    """What the record must hold of a pod that is about to get ``additions``."""
    return dict(_changes(pod, additions))


def _changes(pod: Object, additions: Additions) -> Iterator[tuple[str, str | None]]:
    annotations = annotations_of(pod)
    if additions.position == "first" and DEFAULT_CONTAINER in annotations:
        yield DEFAULT_CONTAINER, annotations[DEFAULT_CONTAINER]
    listed = annotations.get(SAFE_TO_EVICT)
    # Nobody could tell later who listed a volume of ours, or an empty name.
    if listed is not None and not (all_marks().volumes | {""}).isdisjoint(listed.split(",")):
        yield SAFE_TO_EVICT, listed
    labels = (pod.get("metadata") or {}).get("labels") or {}
    for key, text in labels.items():
        if is_label(key):
            yield _LABEL + key, text
    for items in LISTS:
        known = all_marks().volumes if items == "volumes" else all_marks().containers
        own = {each.get("name", "") for each in pod["spec"].get(items) or ()} & known
        if own:
            yield _OWN + items, ",".join(sorted(own))
    if additions.container_env:
        ours = {variable["name"] for variable in additions.container_env}
        for container in containers(pod):
            names = [each["name"] for each in container.get("env") or () if each["name"] in ours]
            if names:
                yield _OWN_ENV + container["name"], ",".join(names)
    present = pod["spec"].get("imagePullSecrets") or ()
    secrets = [each["name"] for each in additions.image_pull_secrets if each not in present]
    if secrets:
        yield PULL_SECRETS, ",".join(secrets)


def is_label(key: str) -> bool:
    """Whether inject sets labels of that name."""
    return key in _LABELS or key.startswith(_LABEL_PREFIX)


def created_by(author: str, changed: Record) -> str:
    """The value of ``linkerd.io/created-by``: who injected, name and version, and the record."""
    if not changed:
        return author
    name, before = _split(author)
    together = dict(sorted({**before, **changed}.items()))
    return f"{name} {json.dumps(together, separators=(',', ':'))}"


def author_of(obj: Object) -> str:
    """Who injected the object, name and version; empty where nobody did."""
    return _split(annotations_of(obj).get(CREATED_BY, ""))[0]


def record_of(obj: Object) -> Record:
    """The record of what was changed; empty where there is none that can be trusted."""
    value = annotations_of(obj).get(CREATED_BY, "")
    if not value.startswith((COMMAND + " ", WEBHOOK + " ")):
        return {}
    return _split(value)[1]


def _split(value: str) -> tuple[str, Record]:
    name, brace, rest = value.partition("{")
    if not brace:
        return value, {}
    try:
        found: Any = msgspec.json.decode(brace + rest, type=dict[str, str | None])
    except (msgspec.DecodeError, UnicodeError):
        return name.rstrip(), {}
    return name.rstrip(), {key: text for key, text in found.items() if _is_known(key)}


def _is_annotation(key: str) -> bool:
    return key == INJECT or key in _CONVENIENCE or key.startswith(_SETTINGS)


def _is_known(key: str) -> bool:
    return _is_annotation(key) or key.startswith((_OWN, _OWN_ENV, _LABEL)) or key == PULL_SECRETS
