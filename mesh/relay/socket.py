"""The listening socket in a pod's network namespace: only the proxy's user gets through it."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from typing import Any

_PEER = struct.Struct("3i")  # struct ucred: pid, uid, gid
BACKLOG = 16


class GuardedSocket(socket.socket):
    """Accepts only whoever the kernel says is the one user (SO_PEERCRED); others are cut off.

    A process of another user in the same pod could otherwise ask for the pod's key.
    """

    def __init__(self, fileno: int, uid: int, on_stranger: Callable[[int, int], None]) -> None:
        """Takes the descriptor over. ``on_stranger`` hears of others, by pid and uid."""
        super().__init__(fileno=fileno)
        self.setblocking(False)
        self._uid = uid
        self._on_stranger = on_stranger

    def accept(self) -> tuple[socket.socket, Any]:
        """As `socket.socket`; asyncio takes BlockingIOError for nobody being there yet."""
        connection, address = super().accept()
        pid, uid, _ = _PEER.unpack(
            connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        )
        if uid == self._uid:
            return connection, address
        connection.close()
        self._on_stranger(pid, uid)
        raise BlockingIOError
