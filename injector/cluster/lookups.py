"""The `Cluster` that is an API server: namespaces from memory, owners fetched once and cached."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Generic, Literal, TypeVar

import msgspec
from cachetools import TTLCache

from injector.cluster.metrics import ClusterMetrics
from injector.cluster.namespaces import NamespaceObject, Namespaces
from injector.cluster.source import ClusterError
from injector.core.model import Namespace, Owner
from injector.core.owners import (
    ObjectMeta,
    OwnerReference,
    direct_owner,
    is_followed,
    resolve_owner,
)
from kubeapi.client import METADATA, ApiServer, ApiServerError, is_name

FETCH_SECONDS = 3.0
"""For one look-up with its repetitions; a review usually has 10 seconds in all."""
OWNERS = 4096
"""Owners in the cache, about 1 KiB each: pods come in bursts of the same few."""
OWNER_SECONDS = 600.0
"""An owner changes owners hardly ever (``kubectl delete --cascade=orphan``), but it can."""
NEW_NAMESPACES = 256
NEW_NAMESPACE_SECONDS = 5.0
"""Until the watch brings what was asked for by name."""

_PATHS = {
    ("apps", "ReplicaSet"): "apis/apps/v1/namespaces/{}/replicasets/{}",
    ("batch", "Job"): "apis/batch/v1/namespaces/{}/jobs/{}",
}

_TOLD_OF = {
    **_PATHS,
    ("apps", "StatefulSet"): "apis/apps/v1/namespaces/{}/statefulsets/{}",
    ("apps", "DaemonSet"): "apis/apps/v1/namespaces/{}/daemonsets/{}",
    ("", "ReplicationController"): "api/v1/namespaces/{}/replicationcontrollers/{}",
}
"""Kinds that a pod's own reference may name and that get Events."""
ABSENT = 1024
ABSENT_SECONDS = {"owner": 60.0, "namespace": 1.0}
"""How long it is remembered that there is none: of an owner, which has its uid in the question, for
long; of a namespace, which may be made any moment, hardly."""

_K = TypeVar("_K")
_V = TypeVar("_V")
_Kind = Literal["owner", "namespace"]


class Lookups(Generic[_K, _V]):
    """Answers that are fetched on demand, remembered for a while, and bounded in number.

    However many ask for the same at once, it is fetched once: a Deployment that is scaled up
    by a hundred pods costs one request.
    """

    def __init__(
        self,
        kind: _Kind,
        fetch: Callable[[_K], Awaitable[_V | None]],
        metrics: ClusterMetrics,
        *,
        size: int,
        seconds: float,
    ) -> None:
        """``fetch`` answers None for what does not exist."""
        self._kind: _Kind = kind
        self._fetch = fetch
        self._metrics = metrics
        self._known: TTLCache[_K, _V] = TTLCache(size, seconds)
        self._absent: TTLCache[_K, bool] = TTLCache(ABSENT, ABSENT_SECONDS[kind])
        self._pending: dict[_K, asyncio.Task[_V | None]] = {}

    async def get(self, key: _K) -> _V | None:
        """The answer, or None where there is no such thing.

        Raises:
            ClusterError: it cannot be found out.
        """
        known = self._known.get(key)
        if known is not None:
            self._metrics.looked_up(self._kind, "cached")
            return known
        if key in self._absent:
            self._metrics.looked_up(self._kind, "cached")
            return None
        task = self._pending.get(key)
        if task is None:
            task = self._pending[key] = asyncio.create_task(self._run(key))
            task.add_done_callback(partial(self._done, key))
        # Who gives up waiting must not take the answer away from the others.
        return await asyncio.shield(task)

    async def _run(self, key: _K) -> _V | None:
        try:
            found = await self._fetch(key)
        except ClusterError:
            self._metrics.looked_up(self._kind, "failed")
            raise
        self._metrics.looked_up(self._kind, "missing" if found is None else "fetched")
        if found is None:
            self._absent[key] = True
        else:
            self._known[key] = found
        return found

    def _done(self, key: _K, task: asyncio.Task[_V | None]) -> None:
        del self._pending[key]
        if not task.cancelled():
            # All who waited may be gone: then nobody else takes the exception.
            task.exception()


class _OwnedMeta(msgspec.Struct, frozen=True, rename="camel"):
    uid: str = ""
    owner_references: list[OwnerReference] | None = None


class _Owned(msgspec.Struct, frozen=True):
    metadata: _OwnedMeta = _OwnedMeta()


class KubeCluster:
    """A `Cluster` behind an API server. Its memory does not grow with the number of pods."""

    def __init__(self, api: ApiServer, namespaces: Namespaces, metrics: ClusterMetrics) -> None:
        """``namespaces`` is kept up to date by somebody else."""
        self._api = api
        self._namespaces = namespaces
        self._new_namespaces: Lookups[str, Namespace] = Lookups(
            "namespace",
            self._fetch_namespace,
            metrics,
            size=NEW_NAMESPACES,
            seconds=NEW_NAMESPACE_SECONDS,
        )
        self._owners: Lookups[tuple[str, OwnerReference], tuple[OwnerReference, ...]] = Lookups(
            "owner", self._fetch_owners, metrics, size=OWNERS, seconds=OWNER_SECONDS
        )

    async def namespace(self, name: str) -> Namespace | None:
        """The namespace; one that the watch has not brought yet is asked for by name.

        Raises:
            ClusterError: it is not in memory, and the API server does not say.
        """
        return self._namespaces.get(name) or await self._new_namespaces.get(name)

    async def owner(self, meta: ObjectMeta) -> Owner:
        """The workload; a ReplicaSet or Job that is gone, or is another's, is the answer itself.

        Raises:
            ClusterError: the API server does not say.
        """
        direct = direct_owner(meta)
        if direct is None or not is_followed(direct):
            return resolve_owner(meta, None)
        above = await self._owners.get((meta.namespace or "", direct))
        return replace(resolve_owner(meta, above), is_known=above is not None)

    async def is_there(self, namespace: str, owner: Owner) -> bool:
        """Whether there is such an object; no for kinds that cannot be looked up.

        Raises:
            ClusterError: the API server does not say.
        """
        if owner.is_known:
            return True
        reference = OwnerReference(
            api_version=owner.api_version,
            kind=owner.api_kind or owner.kind,
            name=owner.name,
            uid=owner.uid,
        )
        if (reference.group, reference.kind) not in _TOLD_OF:
            return False
        return await self._owners.get((namespace, reference)) is not None

    async def _fetch_namespace(self, name: str) -> Namespace | None:
        body = await self._fetch(f"api/v1/namespaces/{name}") if is_name(name) else None
        if body is None:
            return None
        found = _decode(body, NamespaceObject).slim()
        if found.name != name:
            # Taken for a namespace without annotations it would leave its pods without a proxy.
            raise ClusterError(f"the API server's answer is not understood: it is not {name!r}")
        return found

    async def _fetch_owners(
        self, key: tuple[str, OwnerReference]
    ) -> tuple[OwnerReference, ...] | None:
        namespace, direct = key
        if not (is_name(namespace) and is_name(direct.name)):
            return None
        path = _TOLD_OF[direct.group, direct.kind].format(namespace, direct.name)
        body = await self._fetch(path)
        if body is None:
            return None
        meta = _decode(body, _Owned).metadata
        # Another object of the same name, or a reference that somebody made up.
        return tuple(meta.owner_references or ()) if meta.uid == direct.uid else None

    async def _fetch(self, path: str) -> bytes | None:
        try:
            return await self._api.get_within(path, accept=METADATA, seconds=FETCH_SECONDS)
        except ApiServerError as error:
            if error.status == 404:
                return None
            raise ClusterError(str(error)) from error


def _decode(body: bytes, kind: type[_V]) -> _V:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise ClusterError(f"the API server's answer is not understood: {error}") from error
