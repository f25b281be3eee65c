"""The relay's socket, opened in a pod's namespace."""

from __future__ import annotations

import socket

from meshgraft.lab.netns import Netns
from vocabulary.mesh import SOCKET


def listen_in(netns: Netns) -> socket.socket:
    """A listening socket in the namespace, as the agent opens it."""
    with netns.entered():
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind("\0" + SOCKET[1:])
    listener.listen(16)
    return listener
