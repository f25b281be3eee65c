"""What the webhook asks of a cluster, and a file of objects that stands in for one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import msgspec

from injector.core.model import Namespace, Object, Owner
from injector.core.owners import (
    FOLLOWED,
    ObjectMeta,
    OwnerReference,
    direct_owner,
    resolve_owner,
)
from process.files import FileError, read_documents
from vocabulary.errors import MeshgraftError


class ClusterError(MeshgraftError):
    """The cluster could not be asked; the text says what failed."""


class Cluster(Protocol):
    """What the webhook asks of the cluster while a pod waits; answers come from memory mostly."""

    async def namespace(self, name: str) -> Namespace | None:
        """The namespace, or None where it is not known.

        Raises:
            ClusterError: it cannot be found out.
        """

    async def owner(self, meta: ObjectMeta) -> Owner:
        """The workload of the pod with this metadata (namespace set); see `resolve_owner`.

        Raises:
            ClusterError: it cannot be found out.
        """


class _Stored(msgspec.Struct, frozen=True, rename="camel"):
    """An object of the file; what is not metadata does not matter here."""

    metadata: ObjectMeta
    kind: str = ""
    api_version: str = ""


class OfflineObjects:
    """A `Cluster` that is a file: what ``kubectl get namespaces,replicasets,jobs -o yaml`` wrote.

    For trying out and for tests; the file is read once.
    """

    def __init__(self, objects: Iterable[Object]) -> None:
        """Index the objects; of two with the same name the later counts.

        Raises:
            msgspec.ValidationError: an object without usable metadata.
        """
        self._namespaces: dict[str, Namespace] = {}
        self._owners: dict[tuple[str, str, str, str], list[OwnerReference]] = {}
        for raw in objects:
            self._add(msgspec.convert(raw, _Stored))

    def _add(self, stored: _Stored) -> None:
        meta, name = stored.metadata, stored.metadata.name or ""
        group = stored.api_version.rpartition("/")[0]
        if (group, stored.kind) == ("", "Namespace"):
            self._namespaces[name] = Namespace(
                name=name, annotations=meta.annotations or {}, labels=meta.labels or {}
            )
        elif (group, stored.kind) in FOLLOWED:
            key = (group, stored.kind, meta.namespace or "", name)
            self._owners[key] = meta.owner_references or []

    async def namespace(self, name: str) -> Namespace | None:
        """The namespace as the file has it, or None."""
        return self._namespaces.get(name)

    async def owner(self, meta: ObjectMeta) -> Owner:
        """The workload; a ReplicaSet or Job that the file lacks is the answer itself."""
        direct = direct_owner(meta)
        if direct is None:
            return resolve_owner(meta, None)
        key = (direct.group, direct.kind, meta.namespace or "", direct.name)
        return resolve_owner(meta, self._owners.get(key))


def _flatten(document: Any) -> Iterator[Any]:
    """The objects of a document: itself, or the items of a List (``kind`` left out in them)."""
    kind = document.get("kind") if isinstance(document, dict) else None
    if not (isinstance(kind, str) and kind.endswith("List") and "items" in document):
        yield document
        return
    if not isinstance(document["items"], list):
        raise FileError(f"items of a {kind} must be a list")
    # A typed list (NamespaceList, as the API itself answers) leaves the kind out of its items.
    shared = {"kind": kind.removesuffix("List"), "apiVersion": document.get("apiVersion", "")}
    for item in document["items"]:
        if kind != "List" and isinstance(item, dict):
            yield {**shared, **item}
        else:
            yield from _flatten(item)


def load_offline_objects(path: Path) -> OfflineObjects:
    """The objects of a kubectl List (YAML, JSON, or several documents).

    Raises:
        FileError: not readable, not YAML or JSON, or not a list of Kubernetes objects.
    """
    documents = read_documents(path)
    try:
        return OfflineObjects([item for document in documents for item in _flatten(document)])
    except msgspec.ValidationError as error:
        raise FileError(f"{path}: not a list of Kubernetes objects: {error}") from error
    except (FileError, RecursionError) as error:
        raise FileError(f"{path}: {error}") from error
