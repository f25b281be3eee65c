"""The worker process of the legacy backend: libiptc and libxtables live here, and nowhere else.

libxtables keeps global state, python-iptables caches one handle for each table and redirects
stdout while it reads an extension; in a process of many threads each of these would be a fault.
Here requests come one at a time over a Unix socket, with the namespace's descriptor attached.
The process ends when the other end closes.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from typing import Literal, TypeVar

import msgspec

from cni_plugin.dataplane.errors import DataplaneError
from vocabulary.annotations.redirect import Redirect

T = TypeVar("T", bound=msgspec.Struct)
_LENGTH = struct.Struct("!I")


class Request(msgspec.Struct, frozen=True):
    """What the worker is asked. The namespace's descriptor comes with all but ``probe``."""

    do: Literal["probe", "apply", "remove", "difference"]
    redirect: Redirect | None = None


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What came of it: one of the fields, as the request has it."""

    changed: bool = False
    text: str | None = None
    """For ``difference`` and ``probe``."""
    error: str | None = None
    kind: str = ""
    """The class of the error."""


def send(sock: socket.socket, message: msgspec.Struct, fd: int | None = None) -> None:
    """Send one message, with a descriptor where given."""
    data = msgspec.json.encode(message)
    header = _LENGTH.pack(len(data))
    if fd is None:
        sock.sendall(header)
    else:
        socket.send_fds(sock, [header], [fd])
    sock.sendall(data)


def receive(sock: socket.socket, kind: type[T]) -> tuple[T, int | None]:
    """Receive one message, and the descriptor that came with it.

    Raises:
        EOFError: the other end is closed.
        msgspec.DecodeError: it is no such message.
    """
    header, fds, _, _ = socket.recv_fds(sock, _LENGTH.size, 1)
    fd = fds[0] if fds else None
    try:
        header += _exactly(sock, _LENGTH.size - len(header))
        (length,) = _LENGTH.unpack(header)
        return msgspec.json.decode(_exactly(sock, length), type=kind), fd
    except BaseException:
        if fd is not None:
            os.close(fd)
        raise


def _exactly(sock: socket.socket, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        part = sock.recv(length - len(data))
        if not part:
            raise EOFError("the other end is closed")
        data += part
    return bytes(data)


def serve(sock: socket.socket) -> None:
    """Answer requests until the other end closes."""
    while True:
        try:
            request, fd = receive(sock, Request)
        except EOFError:
            return
        try:
            found = answer(request, fd)
        except DataplaneError as error:
            found = Answer(error=str(error), kind=type(error).__name__)
        finally:
            if fd is not None:
                os.close(fd)
        send(sock, found)


def answer(request: Request, fd: int | None) -> Answer:
    """Do what is asked; raises DataplaneError for what the kernel refuses."""
    try:
        from cni_plugin.dataplane import legacy_tables
    except Exception as error:  # noqa: BLE001  python-iptables raises whatever comes first
        return Answer(
            error=f"python-iptables cannot be loaded: {error}; it needs libiptc, libxtables and "
            "the extensions of iptables in the image (or XTABLES_LIBDIR)"
        )
    if request.do == "probe":
        return Answer(text=legacy_tables.unavailable())
    if fd is None:
        return Answer(error="no network namespace came with the request")
    if request.do == "remove":
        return Answer(changed=legacy_tables.remove(fd))
    if request.redirect is None:
        return Answer(error="no Redirect came with the request")
    if request.do == "apply":
        return Answer(changed=legacy_tables.apply(fd, request.redirect))
    return Answer(text=legacy_tables.difference(fd, request.redirect))


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        serve(channel)
