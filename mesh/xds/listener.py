"""A listening socket that knows whom it let in, so that all can be shown out.

grpclib's server stops listening and ends its calls when it is closed, but keeps its connections: a
client would call again on one of them, where nobody answers any more.
"""

from __future__ import annotations

import contextlib
import socket
import weakref
from typing import Any


class Listener(socket.socket):
    """Accepts as any socket, for asyncio's loops that call `accept` (the standard ones)."""

    def __init__(self, sock: socket.socket) -> None:
        """Takes over a socket that listens already."""
        super().__init__(sock.family, sock.type, sock.proto, fileno=sock.detach())
        self.setblocking(False)
        self._accepted: weakref.WeakSet[socket.socket] = weakref.WeakSet()

    def accept(self) -> tuple[socket.socket, Any]:
        """As `socket.socket`."""
        connection, address = super().accept()
        if not self.admits(connection):
            connection.close()
            # Which asyncio takes for nobody being there yet.
            raise BlockingIOError
        self._accepted.add(connection)
        return connection, address

    def admits(self, connection: socket.socket) -> bool:  # noqa: ARG002
        """Whether whoever connects may come in."""
        return True

    def end(self) -> None:
        """End all connections that are open."""
        for connection in tuple(self._accepted):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
