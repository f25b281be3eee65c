"""What the shell must know of the cluster: a pod's namespace, and the workload it belongs to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from injector.core.model import Namespace, Object, Owner
from process.files import FileError, read_documents


class OwnerReference(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """One of an object's ``metadata.ownerReferences``."""

    kind: str
    name: str
    api_version: str = ""
    uid: str = ""

    @property
    def group(self) -> str:
        """The API group: ``apps`` of ``apps/v1``, empty for the core group."""
        return self.api_version.rpartition("/")[0]


class ObjectMeta(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """The part of an object's metadata that the shell reads; the API server may leave out any."""

    name: str | None = None
    generate_name: str | None = None
    namespace: str | None = None
    annotations: dict[str, str] | None = None
    labels: dict[str, str] | None = None
    owner_references: list[OwnerReference] | None = None

    @property
    def display_name(self) -> str:
        """The name, or the prefix of the one to be made: a pod has no name yet at admission."""
        return self.name or self.generate_name or ""


class ClusterError(Exception):
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


_FOLLOWED = {("apps", "ReplicaSet"), ("batch", "Job")}
"""The kinds that stand between a pod and what people call its workload."""


def direct_owner(meta: ObjectMeta) -> OwnerReference | None:
    """The pod's single owner; None where it has none, or several and so no clear one."""
    references = meta.owner_references or []
    return references[0] if len(references) == 1 else None


def is_followed(owner: OwnerReference | None) -> bool:
    """Whether the owner's own owner is the workload, so that it has to be looked up."""
    return owner is not None and (owner.group, owner.kind) in _FOLLOWED


def resolve_owner(meta: ObjectMeta, above: Sequence[OwnerReference] | None) -> Owner:
    """The workload of a pod, after Linkerd's rule, given its direct owner's ownerReferences.

    A ReplicaSet or Job stands for its single owner, of whatever kind (Linkerd knows
    Deployments only, so that the pods of an Argo Rollout carried the ReplicaSet's name).
    ``above`` is None where the direct owner is not known or need not be: then it is the answer.
    """
    direct = direct_owner(meta)
    if direct is None:
        return Owner(kind="pod", name=meta.display_name)
    if is_followed(direct) and above is not None and len(above) == 1:
        return _as_owner(above[0])
    return _as_owner(direct)


def _as_owner(reference: OwnerReference) -> Owner:
    return Owner(
        kind=reference.kind.lower(),
        name=reference.name,
        api_version=reference.api_version,
        uid=reference.uid,
        api_kind=reference.kind,
    )


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
        elif (group, stored.kind) in _FOLLOWED:
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
