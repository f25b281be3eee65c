"""The word that the node's agent gives a waiting validator about the pod's inbound rules.

A process of the pod cannot prove them: what it sends to its own address goes over loopback, where
nat PREROUTING is not asked again, and reading the rules needs CAP_NET_ADMIN. The agent reads them,
and says so by one datagram to an abstract Unix socket. Those belong to a network namespace, so
that neither a port nor a mount nor a route is needed, and no NetworkPolicy stands between.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from typing import Literal

from cni_plugin.dataplane.netns import entered

NAME = b"\0meshgraft-network-validator"
_MAX_BYTES = 1024
_RIGHT, _WRONG = b"right", b"wrong "

Said = Literal["right", "wrong", "nothing"]


class Mailbox:
    """Where the validator receives the word, if it may."""

    def __init__(self) -> None:
        """Be reachable from now on; where that is not allowed, no word will ever come."""
        self._socket: socket.socket | None = None
        self._word: bytes | None = None
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            sock.bind(NAME)
            sock.setblocking(False)
        except OSError:
            sock.close()
        else:
            self._socket = sock

    def close(self) -> None:
        """No more words."""
        if self._socket is not None:
            self._socket.close()

    def said_right(self) -> bool:
        """Whether the last word was that the rules are right."""
        return self._last() == _RIGHT

    def said_wrong(self) -> str:
        """What is wrong with the rules, by the last word; empty where none said so."""
        word = self._last() or b""
        return word.removeprefix(_WRONG).decode(errors="replace") if word != _RIGHT else ""

    def _last(self) -> bytes | None:
        if self._socket is not None:
            with contextlib.suppress(BlockingIOError):
                while True:
                    self._word = self._socket.recv(_MAX_BYTES)
        return self._word


def tell(netns_fd: int, difference: Callable[[], str | None]) -> Said:
    """Say to the validator in the namespace what ``difference`` finds; it is called only if one
    listens. None means "right", and a text what is wrong, for an operator.

    Raises:
        NetnsError: the namespace cannot be entered.
        OSError: it could not be sent.
    """
    with entered(netns_fd):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    with sock:
        sock.setblocking(False)
        try:
            sock.connect(NAME)
            wrong = difference()
            sock.send(_RIGHT if wrong is None else (_WRONG + wrong.encode())[:_MAX_BYTES])
        except BlockingIOError:
            return "nothing"  # it has words enough for now
        except ConnectionRefusedError:
            return "nothing"  # there is none, or no more
    return "right" if wrong is None else "wrong"
