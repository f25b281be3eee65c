"""One pod at the relay: its socket, its secrets, and its view of what the node knows."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import structlog
from grpclib.server import Server

from mesh.relay.keys import Credentials, Keeping, Sign
from mesh.relay.secrets import SECRET, key_secret, roots_secret
from mesh.relay.socket import GuardedSocket
from mesh.xds.messages import Key, Resource
from mesh.xds.server import DeltaService
from mesh.xds.session import Refusal
from mesh.xds.store import Source, Store, Watcher
from mesh.xds.view import View
from vocabulary.handover import Opened
from vocabulary.mesh import ALIASES

_log = structlog.get_logger()


class PodSource:
    """A pod's own secrets, and for all else what the node knows, under the pod's own names."""

    def __init__(self, uid: str, upstream: Source) -> None:
        """``upstream`` is what the node knows."""
        self._uid = uid
        self._upstream = upstream
        self.secrets = Store()
        self._prefixes: dict[str, tuple[str, ...]] = {}
        self._view = View(upstream, self._inner)
        self._aliases = Key(ALIASES, uid)
        upstream.subscribe(self._aliases, self)
        self.notify(self._aliases)

    def notify(self, key: Key) -> None:
        """Which names mean something else to this pod has changed."""
        found = self._upstream.get(key)
        if found is None:
            return
        try:
            read: Mapping[str, list[str]] = json.loads(found.value)
            prefixes = {type_url: tuple(names) for type_url, names in read.items()}
        except (ValueError, TypeError, AttributeError) as error:
            _log.warning("aliases are not understood", uid=self._uid, error=str(error))
            return
        if prefixes != self._prefixes:
            self._prefixes = prefixes
            self._view.remap()

    def close(self) -> None:
        """The pod is gone."""
        self._upstream.unsubscribe(self._aliases, self)

    def _inner(self, key: Key) -> Key:
        if key.name.startswith(self._prefixes.get(key.type_url, ())):
            return Key(key.type_url, f"{key.name}#{self._uid}")
        return key

    def _of(self, key: Key) -> Source:
        return self.secrets if key.type_url == SECRET else self._view

    def get(self, key: Key) -> Resource | None:
        """As `Source`."""
        # A name with a mark in it would be another pod's.
        return None if "#" in key.name else self._of(key).get(key)

    def subscribe(self, key: Key, watcher: Watcher) -> None:
        """As `Source`."""
        if "#" not in key.name and key.type_url != ALIASES:
            self._of(key).subscribe(key, watcher)

    def unsubscribe(self, key: Key, watcher: Watcher) -> None:
        """As `Source`."""
        if "#" not in key.name and key.type_url != ALIASES:
            self._of(key).unsubscribe(key, watcher)


class RelayPod:
    """A pod that is served; `start`, and `close` when it is gone."""

    def __init__(
        self,
        about: Opened,
        upstream: Source,
        sign: Sign,
        *,
        on_roots: Callable[[bytes], None],
        on_stranger: Callable[[str, int], None],
        on_refused: Callable[[str, Refusal], None],
    ) -> None:
        """``on_roots`` hears of the roots that come with each certificate, ``on_stranger`` of
        another user at the socket, ``on_refused`` of what the proxy would not take."""
        self.about = about
        self.name = f"{about.namespace}/{about.name}"
        self.source = PodSource(about.uid, upstream)
        self._on_roots = on_roots
        self._on_stranger = on_stranger
        self.keeping = Keeping(about, sign, self._use)
        self._service = DeltaService(self._open, lambda refusal: on_refused(self.name, refusal))
        self._server: Server | None = None
        self._socket: GuardedSocket | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        """Whether the proxy has a stream."""
        return self._service.streams > 0

    @property
    def not_after(self) -> datetime | None:
        """When its certificate ends; None while it has none."""
        return self.keeping.not_after

    async def start(self, listener: socket.socket) -> None:
        """Serve at the socket, and see to the certificate."""
        note = self._on_stranger
        self._socket = GuardedSocket(
            listener, self.about.proxy_uid, lambda _, uid: note(self.name, uid)
        )
        self._server = self._service.server()
        await self._server.start(sock=self._socket)
        self._task = asyncio.create_task(self.keeping.run(), name=f"keys of {self.name}")

    async def close(self) -> None:
        """Close the socket, which lets the network namespace go, and forget the key."""
        if self._task is not None:
            self._task.cancel()
        if self._server is not None and self._socket is not None:
            self._server.close()
            self._socket.end()
            await self._server.wait_closed()
        self.source.close()

    def trust(self, roots: bytes) -> None:
        """Serve these roots from now on."""
        if roots.strip():
            self.source.secrets.put(roots_secret(roots))

    def _use(self, credentials: Credentials) -> None:
        self._on_roots(credentials.roots)
        self.source.secrets.put(key_secret(credentials.chain, credentials.key))

    async def _open(self, _: Mapping[str, Any]) -> Source:
        return self.source
