"""Everything that the relay of a node holds: its pods, what they use, and whom they trust."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from mesh.relay.cache import Saver, load
from mesh.relay.keys import Sign
from mesh.relay.pod import RelayPod
from mesh.xds.messages import Key
from mesh.xds.session import Refusal
from mesh.xds.store import Store
from mesh.xds.subscriptions import Subscriptions
from vocabulary.handover import Opened
from vocabulary.mesh import ALIASES

LINGER_SECONDS = 600.0
"""What no pod uses any more stays known for so long: one may start while control is away."""
MOST_LINGERING = 2000
_SAVE_SECONDS = 2.0
_ROOTS_SECONDS = 1.0

_log = structlog.get_logger()


class Metrics:
    """What the relay counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register it."""
        self.pods = Gauge("mesh_relay_pods", "Pods whose sockets are held.", registry=registry)
        self.waiting = Gauge(
            "mesh_relay_pods_without_certificate",
            "Pods that wait for their first certificate, or whose renewal fails.",
            registry=registry,
        )
        self.expiry = Gauge(
            "mesh_relay_first_certificate_expiry_timestamp_seconds",
            "When the first of the pods' certificates expires, as Unix time; 0: there is none.",
            registry=registry,
        )
        self.strangers = Counter(
            "mesh_relay_strangers",
            "Connections to pods' sockets by another user than the proxy's.",
            registry=registry,
        )
        self.refused = Counter(
            "mesh_relay_resources_refused",
            "Resources that a proxy would not take.",
            ("type",),
            registry=registry,
        )
        self.known = Gauge("mesh_relay_resources", "Resources that are known.", registry=registry)


class Node:
    """The relay's state; a `mesh.relay.handover.Pods`."""

    def __init__(
        self,
        *,
        sign: Sign,
        roots_file: Path,
        cache_file: Path | None,
        metrics: Metrics,
        now: Callable[[], float],
    ) -> None:
        """``now`` is a steady clock, in seconds."""
        self._sign = sign
        self._roots_file = roots_file
        self._metrics = metrics
        self._now = now
        self._pods: dict[str, RelayPod] = {}
        self._published = b""
        self._signed = b""
        self._trusted = b""
        self.store = Store(on_wanted=self._wanted, on_unwanted=self._unwanted)
        self.subscriptions = Subscriptions(self.store)
        self._lingering: dict[Key, float] = {}
        self._saver = Saver(cache_file, self.store) if cache_file else None
        if cache_file is not None:
            count = load(cache_file, self.store)
            for resource in self.store.resources():
                self._lingering[resource.key] = now() + LINGER_SECONDS
                self.subscriptions.want(resource.key)
            _log.info("cache read", resources=count)

    # Pods

    def holding(self) -> tuple[str, ...]:
        """As `mesh.relay.handover.Pods`."""
        return tuple(self._pods)

    async def opened(self, about: Opened, listener: socket.socket) -> None:
        """As `mesh.relay.handover.Pods`."""
        await self.closed(about.uid)
        pod = RelayPod(
            about,
            self.store,
            self._sign,
            on_roots=self._roots_signed,
            on_stranger=self._stranger,
            on_refused=self._refused,
        )
        pod.trust(self.roots())
        self._pods[about.uid] = pod
        await pod.start(listener)
        _log.info("serving pod", pod=pod.name, uid=about.uid, proxyUid=about.proxy_uid)

    async def closed(self, uid: str) -> None:
        """As `mesh.relay.handover.Pods`."""
        pod = self._pods.pop(uid, None)
        if pod is not None:
            await pod.close()
            _log.info("pod is gone", pod=pod.name, uid=uid)

    async def close(self) -> None:
        """End: pods' proxies keep what they have, and come back."""
        for uid in tuple(self._pods):
            await self.closed(uid)

    def _stranger(self, pod: str, uid: int) -> None:
        self._metrics.strangers.inc()
        _log.warning("another user than the proxy's at a pod's socket", pod=pod, user=uid)

    def _refused(self, pod: str, refusal: Refusal) -> None:
        key = refusal.resource.key
        kind = key.type_url.rpartition(".")[2]
        self._metrics.refused.labels(kind).inc()
        _log.error(
            "a proxy refuses a resource",
            pod=pod,
            type=kind,
            name=key.name,
            madeOf=refusal.resource.source,
            error=refusal.why,
        )

    # Roots

    def roots(self) -> bytes:
        """Whom to trust: what is published, and what identity itself has said since."""
        blocks = dict.fromkeys((*_blocks(self._signed), *_blocks(self._published)))
        return b"".join(blocks)

    def _roots_signed(self, roots: bytes) -> None:
        if roots != self._signed:
            self._signed = roots
            self._trust()

    def read_roots(self) -> None:
        """Look at what is published; a file that is not there yet is no news."""
        try:
            found = self._roots_file.read_bytes()
        except OSError:
            return
        if found != self._published:
            self._published = found
            # What identity said before may be older than what it has published since.
            self._signed = b"" if self._signed and found.strip() else self._signed
            self._trust()

    def _trust(self) -> None:
        before, roots = self._trusted, self.roots()
        self._trusted = roots
        # Where none has stayed there was no overlap: what the old ones signed is worth nothing.
        lost = before and not set(_blocks(before)) & set(_blocks(roots))
        for pod in self._pods.values():
            pod.trust(roots)
            if lost:
                pod.keeping.renew()

    # What pods use

    def _wanted(self, key: Key) -> None:
        self._lingering.pop(key, None)
        self.subscriptions.want(key)

    def _unwanted(self, key: Key) -> None:
        if key.type_url == ALIASES or "#" in key.name:
            self._drop(key)  # of a pod that is gone
        else:
            self._lingering[key] = self._now() + LINGER_SECONDS

    def _drop(self, key: Key) -> None:
        self._lingering.pop(key, None)
        self.subscriptions.drop(key)
        self.store.forget(key)

    def let_go(self) -> None:
        """Drop what nobody has used for a while."""
        now = self._now()
        for key, until in tuple(self._lingering.items()):
            if until > now and len(self._lingering) <= MOST_LINGERING:
                break
            self._drop(key)

    # What goes on

    async def look_after(self) -> None:
        """Roots, cache, metrics; for ever."""
        turns = 0
        while True:
            self.read_roots()
            self.let_go()
            self._count()
            turns += 1
            if self._saver is not None and turns % round(_SAVE_SECONDS / _ROOTS_SECONDS) == 0:
                self._saver.save_if_changed()
            await asyncio.sleep(_ROOTS_SECONDS)

    def _count(self) -> None:
        pods = self._pods.values()
        self._metrics.pods.set(len(pods))
        self._metrics.known.set(len(self.store))
        self._metrics.waiting.set(sum(pod.keeping.problem is not None for pod in pods))
        ends: list[datetime] = [pod.not_after for pod in pods if pod.not_after]
        self._metrics.expiry.set(min(ends).timestamp() if ends else 0)


_END = b"-----END CERTIFICATE-----"


def _blocks(pem: bytes) -> list[bytes]:
    """The certificates of a bundle, each as its own text."""
    return [block.strip() + b"\n" + _END + b"\n" for block in pem.split(_END) if block.strip()]
