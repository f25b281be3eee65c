"""Every namespace of the cluster, kept up to date in memory.

What is kept of each is its name and the annotations and labels of our vocabulary, so that a
cluster of 20,000 namespaces stays small. Source: Kubernetes API concepts, "Metadata-only fetches".
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from injector.cluster.metrics import ClusterMetrics
from injector.core.model import Namespace
from kubeapi.client import METADATA, METADATA_LIST, ApiServer
from kubeapi.reflector import Collection, Reflector

_DOMAINS = ("linkerd.io", "meshgraft.io")
_NOTHING: Mapping[str, str] = {}


class _Meta(msgspec.Struct, frozen=True, rename="camel"):
    name: str = ""
    annotations: dict[str, str] | None = None
    labels: dict[str, str] | None = None


class NamespaceObject(msgspec.Struct, frozen=True):
    """A Namespace, or its metadata alone, as the API server sends it."""

    metadata: _Meta = _Meta()

    def slim(self) -> Namespace:
        """What is worth keeping."""
        meta = self.metadata
        return Namespace(meta.name, _ours(meta.annotations), _ours(meta.labels))


def _ours(found: Mapping[str, str] | None) -> Mapping[str, str]:
    """The keys of our vocabulary, misspelt ones too: warnings tell of those."""
    kept = {key: text for key, text in (found or {}).items() if _is_ours(key)}
    return kept or _NOTHING


def _is_ours(key: str) -> bool:
    return key.partition("/")[0].endswith(_DOMAINS)


def _read(content: bytes) -> tuple[str, Namespace]:
    namespace = msgspec.json.decode(content, type=NamespaceObject).slim()
    return namespace.name, namespace


class Namespaces(Reflector[str, Namespace]):
    """The namespaces that are known, by name.

    `problem` is the replica's readiness. It stays None while the API server is away later on: a
    replica that called itself unready for that would take every webhook away at once.
    """

    def __init__(self, api: ApiServer, metrics: ClusterMetrics) -> None:
        """Nothing is known before `run` has made its first list."""
        collection = Collection(
            what="namespaces",
            path="api/v1/namespaces",
            read=_read,
            accept=METADATA,
            accept_list=METADATA_LIST,
        )
        super().__init__(api, collection, metrics)
