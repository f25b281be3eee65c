"""Manifests as text: split into documents, put into the order in which a cluster takes them."""

from __future__ import annotations

import re
from collections.abc import Iterable

import yaml

from meshgraft._errors import CommandError

Document = str
"""One object as YAML text, with its comments, without the ``---``."""

_SEPARATOR = re.compile(r"^---[^\n]*\n?", re.M)

# Helm's own order (pkg/release/v1/util, InstallOrder), as far as the charts have such objects.
_ORDER = (
    "Namespace",
    "NetworkPolicy",
    "ResourceQuota",
    "PodDisruptionBudget",
    "ServiceAccount",
    "Secret",
    "ConfigMap",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
    "Service",
    "DaemonSet",
    "Deployment",
    "MutatingWebhookConfiguration",
)


def documents(text: str) -> list[Document]:
    """The documents of a YAML stream; those that hold nothing but comments are left out."""
    parts = (part.strip("\n") + "\n" for part in _SEPARATOR.split(text))
    return [part for part in parts if not re.fullmatch(r"(\s*(#[^\n]*)?\n)*", part)]


def in_order(objects: Iterable[Document]) -> list[Document]:
    """Helm's order: what others need comes first, the webhook after what answers it, and kinds
    that Kubernetes does not know by itself last. Objects of one kind keep their order.

    Raises:
        CommandError: one of them is no YAML.
    """
    return sorted(objects, key=_rank)


def stream(objects: Iterable[Document]) -> str:
    """One YAML stream, as ``kubectl apply -f -`` takes it."""
    return "".join(f"---\n{document}" for document in objects)


def _rank(document: Document) -> int:
    try:
        kind = yaml.safe_load(document)["kind"]
    except yaml.YAMLError as error:
        where = document.partition("\n")[0].removeprefix("# Source: ")
        detail = " ".join(str(error).split())
        raise CommandError(f"{where}: these values make no YAML of it: {detail}") from error
    return _ORDER.index(kind) if kind in _ORDER else len(_ORDER)
