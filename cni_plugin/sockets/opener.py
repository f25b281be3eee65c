"""Opens the socket by which a pod's proxy reaches the relay.

An abstract Unix socket belongs to the network namespace that it was bound in, and to no file
system: nobody outside the pod can connect to it, whatever is mounted where.
"""

from __future__ import annotations

import errno
import socket

from cni_plugin.dataplane.errors import DataplaneError
from cni_plugin.dataplane.netns import entered
from vocabulary.mesh import SOCKET

_BACKLOG = 16


class SocketError(DataplaneError):
    """The socket could not be opened; the text says why."""


class TakenError(SocketError):
    """Somebody in the pod listens there, or the relay does already."""


def open_socket(netns_fd: int) -> socket.socket:
    """A listening socket in the namespace.

    Raises:
        TakenError: there is one.
        DataplaneError: the namespace cannot be entered, or the kernel would not.
    """
    with entered(netns_fd):
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # The namespace counts in which the socket was made, not that of whoever binds it.
        listener.bind("\0" + SOCKET.removeprefix("@"))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise TakenError(f"{SOCKET} is taken in the pod's network namespace") from error
        raise SocketError(f"{SOCKET} cannot be opened: {error.strerror or error}") from error
    return listener
