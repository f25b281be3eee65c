"""The listening socket in a pod's network namespace: only the proxy's user gets through it."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable

from mesh.xds.listener import Listener

_PEER = struct.Struct("3i")  # struct ucred: pid, uid, gid


class GuardedSocket(Listener):
    """Lets in only whoever the kernel says is the one user (SO_PEERCRED); others are cut off.

    A process of another user in the same pod could otherwise ask for the pod's key.
    """

    def __init__(
        self, sock: socket.socket, uid: int, on_stranger: Callable[[int, int], None]
    ) -> None:
        """Takes the socket over. ``on_stranger`` hears of others, by pid and uid."""
        super().__init__(sock)
        self._uid = uid
        self._on_stranger = on_stranger

    def admits(self, connection: socket.socket) -> bool:
        """As `Listener`."""
        pid, uid, _ = _PEER.unpack(
            connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        )
        if uid != self._uid:
            self._on_stranger(pid, uid)
        return bool(uid == self._uid)
