"""The API server on loopback with every kind of object: lists, rights, merge patches, rollouts."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from kubeapi import reading
from kubeapi.reading import Kind
from tests.kubeapi.fake_apiserver import Asked, FakeApiServer, Object, _send

KINDS: dict[str, Kind] = {
    "ClusterRole": reading.CLUSTER_ROLES,
    "ClusterRoleBinding": reading.CLUSTER_ROLE_BINDINGS,
    "ConfigMap": reading.CONFIG_MAPS,
    "CronJob": reading.CRON_JOBS,
    "DaemonSet": reading.DAEMON_SETS,
    "Deployment": reading.DEPLOYMENTS,
    "Job": reading.JOBS,
    "MutatingWebhookConfiguration": reading.MUTATING_WEBHOOKS,
    "Namespace": reading.NAMESPACES,
    "Node": reading.NODES,
    "Lease": reading.LEASES,
    "Pod": reading.PODS,
    "PodDisruptionBudget": reading.POD_DISRUPTION_BUDGETS,
    "ReplicaSet": reading.REPLICA_SETS,
    "Secret": reading.SECRETS,
    "Service": reading.SERVICES,
    "ServiceAccount": reading.SERVICE_ACCOUNTS,
    "StatefulSet": reading.STATEFUL_SETS,
}


@dataclass
class FakeCluster(FakeApiServer):
    """Objects of any kind by their path; what is in ``denied`` (VERB PLURAL) is forbidden."""

    denied: set[str] = field(default_factory=set)
    rolls_out: bool = True
    """Whether a patched workload is rolled out at once."""
    git_version: str = "v1.36.0"
    meshes: bool = True
    """Whether a pod that is created as a dry run comes back with a proxy."""

    def add(self, *objects: Object) -> None:
        """Put objects where their kind, namespace and name say."""
        for obj in objects:
            meta = obj["metadata"]
            kind = KINDS[obj["kind"]]
            self.objects[f"/{kind.path(meta.get('namespace', ''), meta['name'])}"] = obj

    def asked_for(self, path: str) -> list[Asked]:
        """The requests for this path."""
        return [asked for asked in self.asked if asked.path == path]

    async def _answer(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        verb, plural, is_list = _meaning(asked)
        if f"{verb} {plural}" in self.denied:
            message = f'{plural} is forbidden: User "test" cannot {verb} resource "{plural}"'
            await _status(writer, 403, message)
        elif asked.path == "/version":
            await _send(writer, 200, json.dumps({"gitVersion": self.git_version}).encode())
        elif plural == "selfsubjectaccessreviews":
            await self._review(asked, writer)
        elif asked.method == "POST" and plural == "pods" and asked.query.get("dryRun") == "All":
            await _send(writer, 201, json.dumps(self._admitted(json.loads(asked.body))).encode())
        elif asked.method == "PATCH" and "merge-patch" in asked.headers["content-type"]:
            await self._merge(asked, writer)
        elif asked.method == "GET" and is_list and not asked.is_watch:
            await _send(writer, 200, json.dumps(self._listing(asked, plural)).encode())
        else:
            await super()._answer(asked, writer)

    def _admitted(self, pod: Object) -> Object:
        return meshed(pod) if self.meshes else pod

    async def _review(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        review = json.loads(asked.body)
        wanted = review["spec"]["resourceAttributes"]
        allowed = f"{wanted['verb']} {wanted['resource']}" not in self.denied
        await _send(writer, 201, json.dumps({**review, "status": {"allowed": allowed}}).encode())

    async def _merge(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        found = self.objects.get(asked.path)
        if found is None:
            await _status(writer, 404, "not found")
            return
        merged = _merged(found, json.loads(asked.body))
        merged["metadata"]["generation"] = merged["metadata"].get("generation", 1) + 1
        if self.rolls_out:
            merged["status"] = rolled_out(merged)
        self.objects[asked.path] = merged
        await _send(writer, 200, json.dumps(merged).encode())

    def _listing(self, asked: Asked, plural: str) -> Object:
        root, _, rest = asked.path.partition("/namespaces/")
        namespace = rest.partition("/")[0] if rest else ""
        root = root if rest else asked.path.rpartition("/")[0]
        found = [
            obj
            for path, obj in sorted(self.objects.items())
            if path.startswith(f"{root}/")
            and path.split("/")[-2] == plural
            and namespace in ("", obj["metadata"].get("namespace"))
            and _selected(obj, asked.query.get("labelSelector", ""))
        ]
        begin = int(asked.query.get("continue", "0"))
        end = begin + int(asked.query["limit"])
        more = {"continue": str(end)} if end < len(found) else {}
        # The items of a typed list come without their type.
        items = [{k: v for k, v in obj.items() if k not in ("kind", "apiVersion")} for obj in found]
        return {"metadata": {"resourceVersion": "1", **more}, "items": items[begin:end]}


def meshed(pod: Object) -> Object:
    """The pod with the marks of a webhook whose proxy is the node's."""
    meta = pod["metadata"]
    marks = {"linkerd.io/created-by": "meshgraft/injector test", "meshgraft.io/profile": "node"}
    annotations = {**(meta.get("annotations") or {}), **marks}
    return {**pod, "metadata": {**meta, "annotations": annotations}}


def rolled_out(obj: Object) -> Object:
    """The status of a workload whose pods are all new and available."""
    wanted = obj.get("spec", {}).get("replicas", 1)
    return {
        "observedGeneration": obj["metadata"].get("generation", 1),
        "replicas": wanted,
        "readyReplicas": wanted,
        "updatedReplicas": wanted,
        "availableReplicas": wanted,
        "desiredNumberScheduled": wanted,
        "updatedNumberScheduled": wanted,
        "numberAvailable": wanted,
        "numberReady": wanted,
    }


def _meaning(asked: Asked) -> tuple[str, str, bool]:
    """Verb, plural, and whether the path is a collection's."""
    parts = asked.path.strip("/").split("/")
    parts = parts[2:] if parts[0] == "api" else parts[3:]
    if len(parts) >= 3 and parts[0] == "namespaces":
        parts = parts[2:]
    is_list = len(parts) == 1
    verbs = {"GET": "list" if is_list else "get", "POST": "create", "PATCH": "patch"}
    return verbs.get(asked.method, "update"), parts[0] if parts else "", is_list


def _selected(obj: Object, selector: str) -> bool:
    labels = obj["metadata"].get("labels") or {}
    for part in filter(None, selector.split(",")):
        key, equals, value = part.partition("=")
        if key not in labels or (equals and labels[key] != value):
            return False
    return True


def _merged(old: Any, new: Any) -> Any:
    """RFC 7386."""
    if not isinstance(new, dict):
        return new
    result = dict(old) if isinstance(old, dict) else {}
    for key, value in new.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merged(result.get(key), value)
    return result


async def _status(writer: asyncio.StreamWriter, code: int, message: str) -> None:
    body = {"kind": "Status", "code": code, "message": message}
    await _send(writer, code, json.dumps(body).encode())


@contextlib.asynccontextmanager
async def running_cluster(*objects: Object, **given: Any) -> AsyncIterator[FakeCluster]:
    """A cluster that holds these objects, and is gone afterwards."""
    cluster = FakeCluster(**given)
    cluster.add(*objects)
    await cluster.start()
    try:
        yield cluster
    finally:
        await cluster.stop()
