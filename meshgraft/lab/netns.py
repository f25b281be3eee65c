"""Network namespaces by name, and sockets that live in one of them."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from cni_plugin.dataplane.netns import entered
from meshgraft.lab import LabError

RUN_NETNS = Path("/run/netns")


class Netns:
    """A named network namespace with loopback up, as a container runtime makes one for a pod."""

    def __init__(self, name: str) -> None:
        """Make it.

        Raises:
            LabError: the system would not (not root, or the name is taken).
        """
        self.name = name
        self.path = RUN_NETNS / name
        _run("ip", "netns", "add", name)
        try:
            self.run("ip", "link", "set", "lo", "up")
            self.fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except BaseException:
            _run("ip", "netns", "del", name)
            raise

    def close(self) -> None:
        """Take the namespace away, if it is still there; its links and rules go with it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            _run("ip", "netns", "del", self.name)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Run the calling thread inside; sockets made meanwhile stay inside for good."""
        with entered(self.fd):
            yield

    def tcp_socket(self, family: int = socket.AF_INET) -> socket.socket:
        """A TCP socket that belongs to this namespace, for use from any thread outside."""
        with self.entered():
            return socket.socket(family, socket.SOCK_STREAM)

    def connect(self, host: str, port: int, timeout: float = 10.0) -> socket.socket:
        """A TCP connection made from inside this namespace. ``timeout`` is in seconds."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = self.tcp_socket(family)
        try:
            sock.settimeout(timeout)
            sock.connect((host, port))
        except BaseException:
            sock.close()
            raise
        return sock

    def command(self, *argv: str) -> list[str]:
        """``argv`` prefixed so that it runs inside this namespace (and only this one differs)."""
        return ["nsenter", f"--net={self.path}", "--", *argv]

    def run(self, *argv: str) -> str:
        """Run a program inside and give back what it printed.

        Raises:
            LabError: it failed.
        """
        return _run(*self.command(*argv))


def _run(*argv: str) -> str:
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise LabError(f"{' '.join(argv)}: exit {done.returncode}: {done.stderr.strip()}")
    return done.stdout
