"""The workload that a pod belongs to, by its ownerReferences."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from injector.core.model import Owner


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


FOLLOWED = {("apps", "ReplicaSet"), ("batch", "Job")}
"""The kinds that stand between a pod and what people call its workload."""


def direct_owner(meta: ObjectMeta) -> OwnerReference | None:
    """The pod's single owner; None where it has none, or several and so no clear one."""
    references = meta.owner_references or []
    return references[0] if len(references) == 1 else None


def is_followed(owner: OwnerReference | None) -> bool:
    """Whether the owner's own owner is the workload, so that it has to be looked up."""
    return owner is not None and (owner.group, owner.kind) in FOLLOWED


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
