"""Pods from the API server: this node's from memory by a watch, others by a GET with a deadline.

The agent's threads call in; the connection lives in a thread of its own (`api_thread`). That way
the watch, the patience and the pooled connection are those of the webhook (`kubeapi`), and what is
slow there holds up nothing but the pods that need it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Literal, Protocol, TypeVar

import msgspec
import structlog
from cachetools import LRUCache

from cni_plugin.pods.api_thread import ApiThread
from cni_plugin.pods.linkerd import INHERITED, is_linkerds
from cni_plugin.pods.proxy_settings import proxy_settings, slim
from cni_plugin.pods.source import API_SERVER_PORTS, MIRROR_ANNOTATION, Pod, PodSourceError
from kubeapi.client import METADATA, ApiServerError, is_name
from kubeapi.reflector import Collection, Observer, Reflector

LOOKUP_SECONDS = 2.0
"""For each of the two requests at most (pod, namespace); the plugin program waits 10 s in all."""
LOOKUPS = 4
"""Pods looked up at once: half of the agent's threads, so that pods which need no look-up find one
while the API server is slow or away."""
TURN_SECONDS = 0.25
"""How long a thread waits for its turn to look up."""
NAMESPACE_SECONDS = 5.0
"""A namespace's annotations are taken from memory for this long; longer if nobody can be asked."""
NAMESPACES = 256
SERVICE_SECONDS = 300.0
"""The API server's ports are taken from memory for this long."""

_KUBERNETES = "api/v1/namespaces/default/services/kubernetes"
_LAST_PORT = 65535

_DOMAINS = ("linkerd.io", "meshgraft.io")
_Key = tuple[str, str]
_T = TypeVar("_T")

_log = structlog.get_logger("cni_plugin.pods.cluster_pods")


class _NamespaceMeta(msgspec.Struct, frozen=True):
    name: str = ""
    annotations: dict[str, str] | None = None


class _Namespace(msgspec.Struct, frozen=True):
    metadata: _NamespaceMeta = _NamespaceMeta()


class _ServicePort(msgspec.Struct, frozen=True, rename="camel"):
    port: int = 0
    target_port: int | str = ""


class _ServiceSpec(msgspec.Struct, frozen=True):
    ports: list[_ServicePort] = []


class _Service(msgspec.Struct, frozen=True):
    spec: _ServiceSpec = _ServiceSpec()


def _ports_of(service: _Service) -> tuple[int, ...]:
    """All its ports once, and the target ports that are numbers.

    Raises:
        ApiServerError: it has none, so this cannot be the API server's Service.
    """
    named = [each for entry in service.spec.ports for each in (entry.port, entry.target_port)]
    ports = [each for each in named if isinstance(each, int) and 0 < each <= _LAST_PORT]
    if not ports:
        raise ApiServerError("the Service default/kubernetes is not there, or has no ports")
    return tuple(dict.fromkeys(ports))


def _ours(found: Mapping[str, str]) -> dict[str, str] | None:
    """What decides about traffic, or tells a static pod's mirror; the rest is not kept."""
    kept = {
        key: text
        for key, text in found.items()
        if key == MIRROR_ANNOTATION or key.partition("/")[0].endswith(_DOMAINS)
    }
    return kept or None


def _read(content: bytes) -> tuple[_Key, Pod]:
    pod = msgspec.json.decode(content, type=Pod)
    meta = msgspec.structs.replace(
        pod.metadata, annotations=_ours(pod.annotations), labels=_ours(pod.labels)
    )
    return (meta.namespace, meta.name), msgspec.structs.replace(
        pod, metadata=meta, spec=slim(pod.spec)
    )


def _pods_of(node: str) -> Collection[_Key, Pod]:
    # Whole objects are sent, as metadata alone has no container names; little of them is kept.
    return Collection(
        what="this node's pods",
        path="api/v1/pods",
        read=_read,
        params={"fieldSelector": f"spec.nodeName={node}"},
    )


def inherit(pod: Pod, namespace: Mapping[str, str]) -> Pod:
    """The pod with its namespace's annotations, where those count and it has none of its own."""
    own = pod.annotations
    handed = {key: namespace[key] for key in _lacking(pod) if namespace.get(key)}
    meta = msgspec.structs.replace(pod.metadata, annotations={**own, **handed})
    return msgspec.structs.replace(pod, metadata=meta)


def _lacking(pod: Pod) -> list[str]:
    told = proxy_settings(pod)
    return [
        key
        for key in INHERITED
        if not pod.annotations.get(key) and key.partition("/")[2] not in told
    ]


class LookUps(Observer, Protocol):
    """Hears how pods are found, for metrics."""

    def looked_up(self, result: Literal["memory", "fetched", "missing", "failed"]) -> None:
        """One pod was asked for, and this came of it."""


class ClusterPods:
    """A `PodSource` that is an API server.

    It works as soon as ``api`` was started, whether or not the watch does: what memory does not
    know is asked for.
    """

    def __init__(self, api: ApiThread, node: str | None, metrics: LookUps) -> None:
        """To be made before ``api`` is started. ``node`` is this node's name in the cluster;
        without it nothing is watched."""
        self._api = api
        self._metrics = metrics
        self._pods = Reflector(api.api, _pods_of(node), metrics) if node else None
        self._namespaces: LRUCache[str, tuple[float, Mapping[str, str]]] = LRUCache(NAMESPACES)
        """When they were asked for, and their annotations; read and written under the lock."""
        self._lock = threading.Lock()
        self._service_ports: tuple[float, tuple[int, ...]] | None = None
        """When they were asked for, and the API server's ports; for the loop's thread only."""
        self._turns = threading.BoundedSemaphore(LOOKUPS)
        if self._pods is not None:
            api.keep("pods", self._pods.run)

    @property
    def name(self) -> str:
        """What is looked through, for messages."""
        return self._api.name

    def get(self, namespace: str, name: str, uid: str) -> Pod | None:
        """The pod, with its namespace's annotations if they count; None where there is none.

        Memory is believed only about a pod with this very uid: of a StatefulSet's pods the next
        one has the same name.

        Raises:
            PodSourceError: the API server does not say, or too many are waiting for it.
        """
        known = self._remembered(namespace, name, uid)
        if known is not None and not _wants_namespace(known):
            self._metrics.looked_up("memory")
            return known
        if known is not None and (handed := self._fresh(namespace)) is not None:
            self._metrics.looked_up("memory")
            return inherit(known, handed)
        if not self._turns.acquire(timeout=TURN_SECONDS):
            self._metrics.looked_up("failed")
            raise PodSourceError(
                f"{LOOKUPS} other pods are being looked up, and {self.name} is slow to answer"
            )
        try:
            found = self._api.ask(
                self._look_up(known, namespace, name, uid), seconds=2 * LOOKUP_SECONDS
            )
        except ApiServerError as error:
            self._metrics.looked_up("failed")
            raise PodSourceError(str(error)) from error
        finally:
            self._turns.release()
        self._metrics.looked_up("memory" if known else "fetched" if found else "missing")
        return found

    def known(self) -> tuple[Pod, ...]:
        """This node's pods by the watch; none without one."""
        return self._pods.known() if self._pods is not None else ()

    def problem(self) -> str | None:
        """Why this node's pods are not known; None from the first complete list on, for good, and
        where nothing is watched."""
        return self._pods.problem() if self._pods is not None else None

    def api_server_ports(self) -> tuple[int, ...]:
        """``port`` and ``targetPort`` of the Service default/kubernetes, as Linkerd's plugin takes
        them: whether a connection is seen before or after the Service's NAT is up to the node.

        They are kept for a while; if nobody can be asked for longer, and 443 and 6443 if nobody
        ever could.
        """
        try:
            return self._api.ask(self._api_server_ports(), seconds=LOOKUP_SECONDS)
        except ApiServerError as error:
            _log.warning("the API server's ports are guessed", error=str(error))
            return API_SERVER_PORTS

    def _remembered(self, namespace: str, name: str, uid: str) -> Pod | None:
        pod = self._pods.get((namespace, name)) if self._pods is not None and uid else None
        return pod if pod is not None and pod.has_uid(uid) else None

    def _fresh(self, namespace: str) -> Mapping[str, str] | None:
        """The namespace's annotations, where they were asked for not long ago."""
        with self._lock:
            at, annotations = self._namespaces.get(namespace, (None, {}))
        return annotations if at is not None and time.monotonic() - at < NAMESPACE_SECONDS else None

    # What follows is for the loop's thread.

    async def _look_up(self, known: Pod | None, namespace: str, name: str, uid: str) -> Pod | None:
        if not (is_name(namespace) and is_name(name)):
            return None
        pod = known or await self._fetch_pod(namespace, name)
        if pod is None or not pod.has_uid(uid):
            return None
        if not _wants_namespace(pod):
            return pod
        return inherit(pod, await self._namespace(namespace))

    async def _fetch_pod(self, namespace: str, name: str) -> Pod | None:
        body = await self._fetch(f"api/v1/namespaces/{namespace}/pods/{name}", "application/json")
        if body is None:
            return None
        pod = _decode(body, Pod)
        if (pod.metadata.namespace, pod.metadata.name) != (namespace, name):
            raise ApiServerError("the API server's answer is not understood: it is another pod")
        return pod

    async def _namespace(self, name: str) -> Mapping[str, str]:
        """The namespace's annotations; what was known goes on while the API server is away."""
        if (fresh := self._fresh(name)) is not None:
            return fresh
        with self._lock:
            at, annotations = self._namespaces.get(name, (None, {}))
        try:
            annotations = await self._fetch_namespace(name)
        except ApiServerError as error:
            if at is None or not error.is_passing:
                raise
            _log.warning("namespace as it was", namespace=name, error=str(error))
            return annotations
        with self._lock:
            self._namespaces[name] = time.monotonic(), annotations
        return annotations

    async def _fetch_namespace(self, name: str) -> Mapping[str, str]:
        body = await self._fetch(f"api/v1/namespaces/{name}", METADATA)
        if body is None:
            return {}
        meta = _decode(body, _Namespace).metadata
        if meta.name != name:
            raise ApiServerError(f"the API server's answer is not understood: it is not {name!r}")
        found = meta.annotations or {}
        return {key: found[key] for key in INHERITED if key in found}

    async def _api_server_ports(self) -> tuple[int, ...]:
        if self._service_ports is not None:
            at, ports = self._service_ports
            if time.monotonic() - at < SERVICE_SECONDS:
                return ports
        try:
            body = await self._fetch(_KUBERNETES, "application/json")
            found = _ports_of(_decode(body or b"{}", _Service))
        except ApiServerError:
            if self._service_ports is None:
                raise
            return self._service_ports[1]
        self._service_ports = time.monotonic(), found
        return found

    async def _fetch(self, path: str, accept: str) -> bytes | None:
        try:
            return await self._api.api.get_within(path, accept=accept, seconds=LOOKUP_SECONDS)
        except ApiServerError as error:
            if error.status == 404:
                return None
            raise


def _wants_namespace(pod: Pod) -> bool:
    """A pod of our own injector brings everything along, and one without a proxy needs nothing."""
    return is_linkerds(pod) and bool(_lacking(pod))


def _decode(body: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ApiServerError(f"the API server's answer is not understood: {error}") from error
