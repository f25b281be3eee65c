"""The values of an audit: what is known of a pod and its surroundings, and what is found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from injector.core.model import Namespace, Object, Owner
from injector.core.values import Values
from kubeapi.selectors import unmet
from meshgraft.installed import WEBHOOK_CONFIG
from vocabulary.annotations import BY_KEY, INJECT, is_unknown


class Kind(StrEnum):
    """What is wrong with a pod."""

    NOT_MESHED = "not meshed"
    """It should have a proxy, and has none."""
    MESHED = "meshed"
    """It has a proxy, and should have none."""
    STUCK = "does not start"
    """It has a proxy, and what came with it holds the pod back."""
    CONFLICTS = "conflicts"
    """What it is does not go together with the proxy that it has."""
    DIFFERS = "differs"
    """Its proxy is not what today's settings would give."""
    NOT_USED = "not used"
    """Something that was written to configure the proxy has no effect."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why, in words; ``fix`` is one sentence, and ``restart`` whether a new pod would be well."""

    code: str
    """For scripts: a word or two that stay the same."""
    text: str
    fix: str
    restart: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong, and everything that can be said about it."""

    namespace: str
    name: str
    """The pod's name; empty where it is the namespace itself."""
    owner: Owner
    kind: Kind
    reasons: tuple[Reason, ...]

    @property
    def restart_helps(self) -> bool:
        """Whether a new pod in its place would be as it should."""
        return all(reason.restart for reason in self.reasons)


@dataclass(frozen=True, slots=True)
class Where:
    """A namespace: what the core sees of it, and since when it has had its annotation."""

    namespace: Namespace
    annotated_at: datetime | None = None
    """When ``linkerd.io/inject`` was last written, where the API server remembers."""


_CHART_CONDITIONS = frozenset(
    ("not-a-mirror-of-a-static-pod", "not-a-service-that-names-its-opaque-ports")
)
"""The ``matchConditions`` of our chart: they keep nobody away whom the core would inject."""


@dataclass(frozen=True, slots=True)
class Selectors:
    """Whom one webhook of a registration is asked about."""

    namespaces: Mapping[str, Any] = field(default_factory=dict)
    objects: Mapping[str, Any] = field(default_factory=dict)

    def excludes(self, where: Namespace, labels: Mapping[str, str]) -> str | None:
        """Why pods with these labels are not sent to it, or None where they are."""
        if problem := unmet(self.namespaces, where.labels):
            return f"namespace {where.name} is excluded from the webhook: its {problem}"
        if problem := unmet(self.objects, labels):
            return f"the pod is excluded from the webhook: its {problem}"
        return None

    @property
    def by_label(self) -> bool:
        """Whether ``linkerd.io/inject`` counts as a label here."""
        expressions = [
            expression
            for selector in (self.namespaces, self.objects)
            for expression in selector.get("matchExpressions") or ()
        ]
        return any(expression.get("key") == INJECT for expression in expressions)


@dataclass(frozen=True, slots=True)
class Webhook:
    """The webhook's registration, as far as it decides which pods are sent to it."""

    created_at: datetime | None = None
    failure_policy: str = "Fail"
    """The API server's default."""
    selectors: tuple[Selectors, ...] = (Selectors(),)
    """One is enough to be sent."""
    has_conditions: bool = False
    """Whether ``matchConditions`` (expressions in CEL) of somebody keep further pods away."""

    def excludes(self, where: Namespace, labels: Mapping[str, str]) -> str | None:
        """Why pods with these labels are not sent to the webhook, or None where they are."""
        problems = [each.excludes(where, labels) for each in self.selectors]
        if not problems:
            return "the webhook's configuration holds no webhook"
        return None if None in problems else problems[0]

    @property
    def by_label(self) -> bool:
        """Whether the mesh is opted into by label, not by annotation."""
        return any(each.by_label for each in self.selectors)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mesh:
    """What counts for every pod: the settings in force, and the webhook's registration."""

    values: Values
    webhook: Webhook | None = None
    """None: there is none."""
    webhook_known: bool = True
    """False where we were not allowed to look."""
    source: str = "the defaults"
    """Where the settings come from."""
    now: datetime | None = None
    """When the pods were looked at; None where that does not matter."""
    webhook_name: str = WEBHOOK_CONFIG

    @property
    def by_label(self) -> bool:
        """Whether the mesh is opted into by label, not by annotation."""
        return self.webhook is not None and self.webhook.by_label


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One pod and what surrounds it."""

    pod: Object
    where: Where
    owner: Owner
    template: Mapping[str, str] | None = None
    """The annotations of our vocabulary on the template that the pod was made from; None where
    that is not known, so that the pod's own have to do."""
    workload: Mapping[str, str] = field(default_factory=dict)
    """Annotations of our vocabulary on its workload itself, where they have no effect."""


def vocabulary(annotations: Mapping[str, str] | None) -> dict[str, str]:
    """The annotations that configure the proxy, misspelt ones too."""
    return {key: text for key, text in (annotations or {}).items() if is_ours(key)}


def is_ours(key: str) -> bool:
    """Whether an annotation is one that configures the proxy, or looks like one."""
    return key in BY_KEY or is_unknown(key)


def moment(text: object) -> datetime | None:
    """A time as the API server writes it; None where there is none."""
    if not isinstance(text, str):
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def labels_of(obj: Object) -> Mapping[str, str]:
    """An object's labels; none is the same as empty."""
    return (obj.get("metadata") or {}).get("labels") or {}


def webhook_of(configuration: Object) -> Webhook:
    """The registration in a MutatingWebhookConfiguration."""
    webhooks: list[Object] = configuration.get("webhooks") or []
    conditions = {
        condition.get("name")
        for webhook in webhooks
        for condition in webhook.get("matchConditions") or ()
    }
    return Webhook(
        created_at=moment((configuration.get("metadata") or {}).get("creationTimestamp")),
        failure_policy=next((each.get("failurePolicy") or "Fail" for each in webhooks), "Fail"),
        selectors=tuple(
            Selectors(each.get("namespaceSelector") or {}, each.get("objectSelector") or {})
            for each in webhooks
        ),
        has_conditions=bool(conditions - _CHART_CONDITIONS),
    )
