"""Takes sockets over from the node's agent: one connection, packets with descriptors."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from pathlib import Path
from typing import Protocol

import structlog

from process.files import make_folder
from vocabulary.handover import MAX_BYTES, BadMessageError, Closed, Holding, Opened, decode, encode

_log = structlog.get_logger()
_MOST_DESCRIPTORS = 4


class Pods(Protocol):
    """Who takes them."""

    def holding(self) -> tuple[str, ...]:
        """The uids of the pods that are served."""

    async def opened(self, about: Opened, listener: socket.socket) -> None:
        """Serve a pod."""

    async def closed(self, uid: str) -> None:
        """It is gone."""


class Handover:
    """Listens for the agent; `run` works until it is cancelled."""

    def __init__(self, path: Path, pods: Pods) -> None:
        """``path`` is in a folder that only agent and relay can reach."""
        self._path = path
        self._pods = pods

    async def run(self) -> None:
        """Take connections, one after the other: there is one agent, and its successor."""
        loop = asyncio.get_running_loop()
        make_folder(self._path.parent, 0o755)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with listener:
            listener.setblocking(False)
            self._path.unlink(missing_ok=True)
            listener.bind(str(self._path))
            self._path.chmod(0o660)
            listener.listen(2)
            async with asyncio.TaskGroup() as tasks:
                while True:
                    connection, _ = await loop.sock_accept(listener)
                    tasks.create_task(self._serve(connection))

    async def _serve(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with connection:
            connection.setblocking(False)
            try:
                await loop.sock_sendall(connection, encode(Holding(self._pods.holding())))
                _log.info("the agent is connected")
                while await self._take(connection):
                    pass
            except (OSError, BadMessageError) as error:
                _log.warning("the agent's connection has failed", error=str(error))
        _log.info("the agent has gone")

    async def _take(self, connection: socket.socket) -> bool:
        """One packet; False at the end."""
        await _readable(connection)
        packet, fds, _, _ = socket.recv_fds(connection, MAX_BYTES, _MOST_DESCRIPTORS)
        try:
            if not packet:
                return False
            message = decode(packet)
            if isinstance(message, Opened) and len(fds) == 1:
                listener = socket.socket(fileno=fds.pop())
                await self._pods.opened(message, listener)
            elif isinstance(message, Closed):
                await self._pods.closed(message.uid)
            else:
                raise BadMessageError(f"{type(message).__name__} with {len(fds)} descriptors")
        finally:
            for fd in fds:
                with contextlib.suppress(OSError):
                    os.close(fd)
        return True


async def _readable(connection: socket.socket) -> None:
    """Wait until there is something; asyncio has nothing that takes descriptors along."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(connection.fileno(), ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(connection.fileno())
