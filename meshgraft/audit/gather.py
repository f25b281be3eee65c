"""Reads from the API server what an audit needs: in pages, metadata where that is enough.

What stays in memory is small: of a namespace its labels and our annotations, of a ReplicaSet or
Job its owner, of any other workload our annotations. Pods are judged page by page and forgotten.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec
from cachetools import LRUCache

from injector.core.model import Namespace, Object, Owner
from injector.core.owners import ObjectMeta, OwnerReference, direct_owner, resolve_owner
from injector.core.pods import annotations_of
from injector.core.values import Values
from kubeapi import reading
from kubeapi.client import ApiServer, ApiServerError
from meshgraft.audit.judge import Judgement, judge, needs_template
from meshgraft.audit.misses import is_near_inject
from meshgraft.audit.model import (
    Mesh,
    Subject,
    Where,
    is_ours,
    labels_of,
    moment,
    vocabulary,
    webhook_of,
)
from meshgraft.installed import CONFIG_MAP, WEBHOOK_CONFIG, settings_in
from vocabulary.annotations import INJECT
from vocabulary.errors import MeshgraftError

TEMPLATES = 4096
"""Templates that are remembered, of each a few annotations."""
AT_ONCE = 16
"""Templates that are asked for at the same time. With a page's 500 queueing for connections, the
last would give up on an API server that takes a second for each."""
_RUNNING = {"fieldSelector": "status.phase!=Succeeded,status.phase!=Failed"}
"""A pod that has ended is nobody's concern."""
_WORKLOADS = {
    "ReplicaSet": reading.REPLICA_SETS,
    "Job": reading.JOBS,
    "Deployment": reading.DEPLOYMENTS,
    "StatefulSet": reading.STATEFUL_SETS,
    "DaemonSet": reading.DAEMON_SETS,
    "CronJob": reading.CRON_JOBS,
    "ReplicationController": reading.REPLICATION_CONTROLLERS,
}
_FOLLOWED = ("ReplicaSet", "Job")
"""The kinds without which a pod's workload, and so its proxy's labels, would be taken wrongly."""
_TEMPLATED = ("ReplicaSet", "Job", "StatefulSet", "DaemonSet", "ReplicationController")
"""The kinds that make pods themselves."""
_Key = tuple[str, str, str]
"""Kind, namespace and name of a workload."""


class MissingError(MeshgraftError):
    """What the audit is about is not there; the text says what, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Which pods: of one namespace or of all (empty), by a label selector, or one by its name."""

    namespace: str = ""
    selector: str = ""
    pod: str = ""


@dataclass(slots=True)
class Notes:
    """What could not be looked at, each said once."""

    texts: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        """Note it, if it is new."""
        if text not in self.texts:
            self.texts.append(text)


async def load_mesh(api: ApiServer, namespace: str, values: Values | None, notes: Notes) -> Mesh:
    """The settings in force and the webhook's registration; ``values`` stand in for the cluster's.

    Raises:
        MissingError: the cluster has no settings, and none were given.
        SettingsError: the cluster's settings are not usable.
        ApiServerError: no answer, or we may not read the settings.
    """
    source = "the command line"
    if values is None:
        source = f"ConfigMap {namespace}/{CONFIG_MAP}"
        config = await reading.read(api, reading.CONFIG_MAPS, CONFIG_MAP, namespace)
        if config is None:
            raise MissingError(
                f"there is no {source}: install the injector (meshgraft install), or give its"
                " settings with --values FILE or --profile NAME"
            )
        values = settings_in(config, source)
    try:
        found = await reading.read(api, reading.MUTATING_WEBHOOKS, WEBHOOK_CONFIG)
    except ApiServerError as error:
        if error.status != 403:
            raise
        notes.add(f"whom the webhook is asked about is not known: {error}")
        return Mesh(values=values, webhook_known=False, source=source, now=datetime.now(UTC))
    webhook = webhook_of(found) if found else None
    return Mesh(values=values, webhook=webhook, source=source, now=datetime.now(UTC))


def where_of(obj: Object) -> Where:
    """A namespace as the audit keeps it."""
    annotations = {
        key: text
        for key, text in annotations_of(obj).items()
        if is_ours(key) or is_near_inject(key)
    }
    namespace = Namespace(obj["metadata"]["name"], annotations, labels_of(obj))
    times = (
        moment(entry.get("time"))
        for entry in obj["metadata"].get("managedFields") or ()
        if f"f:{INJECT}" in _managed_annotations(entry)
    )
    return Where(namespace, max((time for time in times if time), default=None))


def _managed_annotations(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    metadata = (entry.get("fieldsV1") or {}).get("f:metadata") or {}
    found: Mapping[str, Any] = metadata.get("f:annotations") or {}
    return found


class Surroundings:
    """What is around the pods: namespaces, owners, and the templates that are asked for."""

    def __init__(self, api: ApiServer, notes: Notes) -> None:
        """Nothing is known before `load`."""
        self._api = api
        self._notes = notes
        self.namespaces: dict[str, Where] = {}
        self._owners: dict[_Key, list[OwnerReference]] = {}
        self._marks: dict[_Key, dict[str, str]] = {}
        self._templates: LRUCache[_Key, Mapping[str, str] | None] = LRUCache(TEMPLATES)
        self._turn = asyncio.Semaphore(AT_ONCE)

    async def load(self, namespace: str) -> None:
        """Namespaces and workloads, of one namespace or all.

        Raises:
            MissingError: there is no such namespace.
            ApiServerError: no answer, or we may not read namespaces, ReplicaSets or Jobs.
        """
        await asyncio.gather(
            self._load_namespaces(namespace),
            *(self._load_workloads(kind, namespace) for kind in _WORKLOADS),
        )

    async def _load_namespaces(self, name: str) -> None:
        if name:
            found = await reading.read(self._api, reading.NAMESPACES, name, metadata=True)
            if found is None:
                raise MissingError(f"there is no namespace {name}")
            self.namespaces[name] = where_of(found)
            return
        async for page in reading.pages(self._api, reading.NAMESPACES, metadata=True):
            self.namespaces.update((obj["metadata"]["name"], where_of(obj)) for obj in page)

    async def _load_workloads(self, kind: str, namespace: str) -> None:
        try:
            async for page in reading.pages(self._api, _WORKLOADS[kind], namespace, metadata=True):
                for obj in page:
                    self._keep(kind, obj)
        except ApiServerError as error:
            if error.status != 403 or kind in _FOLLOWED:
                raise
            self._notes.add(
                f"some owners of pods, and what is written on them, remain unknown: {error}"
            )

    def _keep(self, kind: str, obj: Object) -> None:
        meta = msgspec.convert(obj["metadata"], ObjectMeta)
        key = (kind, meta.namespace or "", meta.name or "")
        if meta.owner_references:
            self._owners[key] = meta.owner_references
        elif marks := vocabulary(meta.annotations):
            # Of what has an owner, the annotations are copies of the owner's.
            self._marks[key] = marks

    async def subjects(self, pods: Iterable[Object]) -> list[Subject]:
        """The pods with all that is around them; those that are going away are left out."""
        staying = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]
        await asyncio.gather(*map(self._load_template, staying))
        return [self._subject(pod) for pod in staying if _namespace(pod) in self.namespaces]

    def _subject(self, pod: Object) -> Subject:
        meta = msgspec.convert(pod["metadata"], ObjectMeta)
        direct = direct_owner(meta)
        namespace = meta.namespace or ""
        above = self._owners.get((direct.kind, namespace, direct.name)) if direct else None
        owner = resolve_owner(meta, above)
        return Subject(
            # An item of a list comes without its type.
            pod={"apiVersion": "v1", "kind": "Pod", **pod},
            where=self.namespaces[namespace],
            owner=owner,
            template=self._templates.get((direct.kind, namespace, direct.name)) if direct else None,
            workload=self._marks.get((owner.api_kind, namespace, owner.name), {}),
        )

    async def _load_template(self, pod: Object) -> None:
        namespace = _namespace(pod)
        where = self.namespaces.get(namespace)
        direct = direct_owner(msgspec.convert(pod["metadata"], ObjectMeta))
        if where is None or direct is None or direct.kind not in _TEMPLATED:
            return
        key = (direct.kind, namespace, direct.name)
        if key in self._templates or not needs_template(pod, where):
            return
        # At once, so that the other pods of the same owner do not ask as well.
        self._templates[key] = None
        try:
            async with self._turn:
                kind = _WORKLOADS[direct.kind]
                found = await reading.read(self._api, kind, direct.name, namespace)
        except ApiServerError as error:
            if error.status != 403:
                raise
            self._notes.add(
                f"what came from the namespace cannot be told from the pod's own: {error}"
            )
            return
        if found is not None:
            template = (found.get("spec") or {}).get("template") or {}
            self._templates[key] = vocabulary(annotations_of(template))


def _namespace(pod: Object) -> str:
    found: str = pod["metadata"].get("namespace", "")
    return found


async def judgements(
    api: ApiServer, scope: Scope, mesh: Mesh, surroundings: Surroundings
) -> AsyncGenerator[list[tuple[Subject, Judgement]], None]:
    """The pods of the scope, judged, page by page.

    Raises:
        MissingError: there is no pod of that name.
        ApiServerError: no answer, or we may not read pods.
    """
    if scope.pod:
        pod = await reading.read(api, reading.PODS, scope.pod, scope.namespace)
        if pod is None:
            raise MissingError(f"there is no pod {scope.pod} in namespace {scope.namespace}")
        yield _judged(await surroundings.subjects([pod]), mesh)
        return
    selectors = {**_RUNNING, **({"labelSelector": scope.selector} if scope.selector else {})}
    async for page in reading.pages(api, reading.PODS, scope.namespace, selectors=selectors):
        yield _judged(await surroundings.subjects(page), mesh)


def _judged(subjects: list[Subject], mesh: Mesh) -> list[tuple[Subject, Judgement]]:
    return [(subject, judge(subject, mesh)) for subject in subjects]


def namespace_owner(name: str) -> Owner:
    """Whom a finding about a namespace belongs to."""
    return Owner("namespace", name)
