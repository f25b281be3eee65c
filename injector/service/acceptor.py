"""Takes connections from a listening socket, within a limit that counts them from the start."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
from collections.abc import Callable

from injector.service.connection_limit import ConnectionLimit, Place

HANDSHAKE_SECONDS = 5.0
"""What a client gets for its TLS handshake; an API server needs milliseconds."""
AT_ONCE = 64
"""So many are accepted before others get their turn."""
RECEIVE_BYTES = 32 * 1024
"""The kernel's buffer for what a connection has sent and nobody has read: it doubles that. A
typical review is a third of it."""

ProtocolFactory = Callable[[Place], asyncio.Protocol]


class Acceptor:
    """One listening socket; has what uvicorn asks of an asyncio server.

    asyncio's own server tells of a connection when its handshake is done, so that those which never
    begin one would be counted by nobody.
    """

    def __init__(
        self,
        listener: socket.socket,
        limit: ConnectionLimit,
        protocol: ProtocolFactory,
        tls: ssl.SSLContext | None,
        failed: Callable[[], None] = lambda: None,
    ) -> None:
        """Starts at once; ``failed`` hears of each handshake that came to nothing."""
        self.sockets = (listener,)
        self._listener = listener
        self._limit = limit
        self._protocol = protocol
        self._tls = tls
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._handshakes: set[asyncio.Task[None]] = set()
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        self._loop.add_reader(listener, self._accept)

    def close(self) -> None:
        """Take no more connections; those that are open stay."""
        self._loop.remove_reader(self._listener)

    async def wait_closed(self) -> None:
        """There is nothing to wait for."""

    def _accept(self) -> None:
        for _ in range(AT_ONCE):
            try:
                connection, address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:
                # Out of descriptors or memory: the loop asks again, and must not spin meanwhile.
                self._loop.remove_reader(self._listener)
                self._loop.call_later(1.0, self._resume)
                return
            place = self._limit.admit(address[0], functools.partial(_end, connection))
            if place is None:
                connection.close()
                continue
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = self._loop.create_task(self._connect(connection, place))
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)

    def _resume(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.add_reader(self._listener, self._accept)

    async def _connect(self, connection: socket.socket, place: Place) -> None:
        given = {} if self._tls is None else {"ssl_handshake_timeout": HANDSHAKE_SECONDS}
        try:
            await self._loop.connect_accepted_socket(
                lambda: self._protocol(place), connection, ssl=self._tls, **given
            )
        except (OSError, ssl.SSLError, TimeoutError):
            self._limit.leave(place)
            self._failed()
            connection.close()


def _end(connection: socket.socket) -> None:
    # Below the transport, which is not known during the handshake; it notices by itself.
    with contextlib.suppress(OSError):  # closed already
        connection.shutdown(socket.SHUT_RDWR)
