"""Asks the kernel how many connections wait at a listening Unix socket (sock_diag, unix_diag).

``ss -xl`` shows the same as Recv-Q. Source: sock_diag(7).
"""

from __future__ import annotations

import os
import socket
import struct

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1
_SHOW_RQLEN = 1 << 4
_ATTRIBUTE_RQLEN = 4
_ANY_STATE = 0xFFFFFFFF
_NO_COOKIE = 0xFFFFFFFF
_SECONDS = 1.0

_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBHIIIII")
_ANSWER_SIZE = 16
"""struct unix_diag_msg, before the attributes."""
_ATTRIBUTE = struct.Struct("=HH")
_LENGTHS = struct.Struct("=II")


def backlog(listener: socket.socket) -> int | None:
    """How many connections nobody has accepted yet; None where the kernel does not tell.

    It may lack the module unix_diag, or a seccomp profile forbid the question.
    """
    try:
        inode = os.fstat(listener.fileno()).st_ino
        with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_SOCK_DIAG) as kernel:
            kernel.settimeout(_SECONDS)
            kernel.sendto(_question(inode), (0, 0))
            return _waiting(kernel.recv(4096))
    except (OSError, struct.error):
        return None


def _question(inode: int) -> bytes:
    body = _REQUEST.pack(
        socket.AF_UNIX, 0, 0, _ANY_STATE, inode, _SHOW_RQLEN, _NO_COOKIE, _NO_COOKIE
    )
    size = _HEADER.size + len(body)
    return _HEADER.pack(size, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0) + body


def _waiting(message: bytes) -> int | None:
    """The queue's length in an answer; None where it is an error, or does not hold it."""
    size, kind, *_ = _HEADER.unpack_from(message)
    if kind != _SOCK_DIAG_BY_FAMILY:
        return None
    at = _HEADER.size + _ANSWER_SIZE
    while at + _ATTRIBUTE.size <= min(size, len(message)):
        length, attribute = _ATTRIBUTE.unpack_from(message, at)
        if attribute == _ATTRIBUTE_RQLEN:
            waiting, _ = _LENGTHS.unpack_from(message, at + _ATTRIBUTE.size)
            return int(waiting)
        at += max(_ATTRIBUTE.size, (length + 3) & ~3)
    return None
