"""Reads one request and the descriptor beside it from a connection, and sends the response."""

from __future__ import annotations

import array
import os
import select
import socket
import time

from cni_plugin.agent.protocol import REQUEST_HEADER_SIZE, ProtocolError, Request

_MAX_FDS = 1


class Wire:
    """One connection. All reading has to be done within ``seconds`` from the start, and sending
    within as many again: the time in between is the agent's own, not the other end's."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self._connection = connection
        self._seconds = seconds
        self._end = time.monotonic() + seconds

    def receive(self) -> tuple[Request, int | None]:
        """One request and the descriptor beside it; the caller closes that.

        Raises:
            ProtocolError: no request of this protocol.
            OSError: the connection broke, or the deadline passed.
        """
        fds: list[int] = []
        try:
            data = self._read(REQUEST_HEADER_SIZE, fds)
            data += self._read(Request.body_size(data), fds)
            return Request.decode(data), fds.pop() if fds else None
        finally:
            for fd in fds:
                os.close(fd)

    def _read(self, size: int, fds: list[int]) -> bytes:
        chunks = bytearray()
        space = socket.CMSG_SPACE(_MAX_FDS * array.array("i").itemsize)
        while len(chunks) < size:
            self._arm()
            data, ancillary, flags, _ = self._connection.recvmsg(
                min(size - len(chunks), 1 << 16), space, socket.MSG_CMSG_CLOEXEC
            )
            fds += _descriptors(ancillary)
            if len(fds) > _MAX_FDS or flags & socket.MSG_CTRUNC:
                raise ProtocolError("more than one descriptor came with the request")
            if not data:
                raise ProtocolError(f"the connection ended after {len(chunks)} of {size} bytes")
            chunks += data
        return bytes(chunks)

    def is_abandoned(self) -> bool:
        """Whether the plugin program is gone, so that nobody waits for an answer: its own time was
        over, or the runtime ended it."""
        poll = select.poll()
        poll.register(self._connection, select.POLLRDHUP)
        return bool(poll.poll(0))

    def send(self, data: bytes) -> None:
        """Send a whole response.

        Raises:
            OSError: the plugin program is gone, or the deadline passed.
        """
        self._end = time.monotonic() + self._seconds
        self._arm()
        self._connection.sendall(data)

    def _arm(self) -> None:
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("the plugin program was too slow")
        self._connection.settimeout(left)


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)
