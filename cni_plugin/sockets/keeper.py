"""Keeps the sockets of this node's meshed pods open at the relay: as long as the pods are there.

A listening socket keeps its network namespace alive. So nothing is held here for longer than it
takes to hand it over, and the relay is told as soon as a pod's namespace is not mounted any more.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog

from cni_plugin.dataplane.errors import DataplaneError
from cni_plugin.pods.netns import RUN_NETNS, NetnsNotFoundError
from cni_plugin.pods.source import Pod
from cni_plugin.sockets.opener import TakenError, open_socket
from vocabulary.annotations.redirect import ANNOTATION, BadRedirect, parse_redirect
from vocabulary.handover import (
    MAX_BYTES,
    BadMessageError,
    Closed,
    Holding,
    Message,
    Opened,
    decode,
    encode,
)
from vocabulary.mesh import ENABLED, MESH_ANNOTATION

TICK_SECONDS = 1.0
PATIENCE_SECONDS = 5.0
"""How long a pod's namespace has to be out of sight before its socket is closed."""
_SEND_SECONDS = 5.0

_log = structlog.get_logger("cni_plugin.sockets")

Home = tuple[int, int]
"""A network namespace, by device and inode."""


class Namespaces(Protocol):
    """Finds a pod's network namespace."""

    def opened(self, pod: Pod, *, fresh: bool = False) -> AbstractContextManager[int]:
        """A descriptor of it, for the body; raises NetnsNotFoundError."""


@dataclass(slots=True)
class _Pod:
    about: Opened
    home: Home
    waiting: socket.socket | None = None
    """Open, and not yet handed over."""
    delivered: bool = False
    seen: float = 0.0
    """When its namespace was last seen, by a steady clock."""


class SocketKeeper:
    """`run` is for one thread; `added` is for any."""

    def __init__(
        self,
        relay: Path,
        known: Callable[[], Iterable[Pod]],
        namespaces: Namespaces,
        folder: Path = RUN_NETNS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``relay`` is where the relay listens; ``known`` are this node's pods, as far as they are
        known; ``folder`` holds their network namespaces."""
        self._relay = relay
        self._known = known
        self._namespaces = namespaces
        self._folder = folder
        self._clock = clock
        self._lock = threading.Lock()
        self._pods: dict[str, _Pod] = {}
        self._connection: socket.socket | None = None
        self._news = threading.Event()
        self._complaint = ""
        self._holding: frozenset[str] = frozenset()
        """What the relay had when it was connected to."""

    def added(self, about: Opened, netns_fd: int) -> None:
        """A pod's rules are set: open its socket. The proxy may connect from now on, and is heard
        when the relay has it.

        Raises:
            DataplaneError: it cannot be opened.
        """
        listener = open_socket(netns_fd)
        status = os.fstat(netns_fd)
        home = (status.st_dev, status.st_ino)
        pod = _Pod(about, home, listener, seen=self._clock())
        with self._lock:
            before = self._pods.pop(about.uid, None)
            self._pods[about.uid] = pod
        if before is not None and before.waiting is not None:
            before.waiting.close()
        self._news.set()

    def problem(self) -> str | None:
        """Why new pods of the mesh would wait; None where all is well."""
        return self._complaint or None

    def run(self, stop: threading.Event) -> None:
        """Hand over and look after, until ``stop`` is set."""
        while not stop.is_set():
            self.look()
            self._news.wait(TICK_SECONDS)
            self._news.clear()
        self._disconnect()

    def look(self) -> None:
        """One round."""
        self._forget_gone()
        if self._connection is None:
            self._connect()
        if self._connection is not None:
            try:
                self._check_connection(self._connection)
                self._open_missing()
                self._deliver(self._connection)
            except OSError as error:
                _log.info("the relay has gone", error=str(error))
                self._disconnect()

    # The relay

    def _connect(self) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.settimeout(_SEND_SECONDS)
        try:
            connection.connect(str(self._relay))
            holding = decode(connection.recv(MAX_BYTES))
            if not isinstance(holding, Holding):
                raise BadMessageError("the relay does not say what it holds")
        except (OSError, BadMessageError) as error:
            connection.close()
            self._complain(f"the mesh's relay does not answer at {self._relay}: {error}")
            return
        self._complain("")
        self._connection = connection
        self._holding = frozenset(holding.uids)
        with self._lock:
            for uid, pod in self._pods.items():
                pod.delivered = uid in holding.uids
        _log.info("connected to the relay", held=len(holding.uids))

    def _check_connection(self, connection: socket.socket) -> None:
        """Raises OSError where the relay has ended: it says nothing after its first message."""
        readable, _, _ = select.select([connection], [], [], 0)
        if readable and connection.recv(1) == b"":
            raise ConnectionResetError("it has closed the connection")

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        with self._lock:
            for pod in self._pods.values():
                pod.delivered = False

    def _deliver(self, connection: socket.socket) -> None:
        with self._lock:
            waiting = [pod for pod in self._pods.values() if pod.waiting and not pod.delivered]
        for pod in waiting:
            assert pod.waiting is not None  # noqa: S101, only this thread takes it
            _send(connection, pod.about, pod.waiting)
            pod.waiting.close()
            pod.waiting = None
            pod.delivered = True
            _log.debug("socket handed over", pod=f"{pod.about.namespace}/{pod.about.name}")

    def _complain(self, text: str) -> None:
        if text and not self._complaint:
            _log.warning("new pods of the mesh have to wait", error=text)
        self._complaint = text

    # The pods

    def _open_missing(self) -> None:
        """What the relay does not hold, though its pod is there: after a start of it, or of us."""
        for pod in self._known():
            about = about_of(pod)
            if about is None or pod.metadata.deletion_timestamp:
                continue
            with self._lock:
                have = self._pods.get(about.uid)
            if have is not None and (have.delivered or have.waiting is not None):
                continue
            try:
                with self._namespaces.opened(pod) as netns_fd:
                    if have is None and about.uid in self._holding:
                        self._note_held(about, netns_fd)
                    else:
                        self.added(about, netns_fd)
            except TakenError:
                # The relay says it does not have it, so somebody in the pod does.
                _log.warning("the relay's socket is taken", pod=str(pod))
            except (NetnsNotFoundError, DataplaneError) as error:
                _log.debug("socket not opened yet", pod=str(pod), error=str(error))
        self._open_remembered()

    def _note_held(self, about: Opened, netns_fd: int) -> None:
        """The relay has it from an agent before us: all that is left is to see when it goes."""
        status = os.fstat(netns_fd)
        home = (status.st_dev, status.st_ino)
        with self._lock:
            self._pods[about.uid] = _Pod(about, home, delivered=True, seen=self._clock())

    def _open_remembered(self) -> None:
        """The same for pods that only an ADD told of."""
        with self._lock:
            lost = [pod for pod in self._pods.values() if not (pod.delivered or pod.waiting)]
        for pod in lost:
            path = self._mounted().get(pod.home)
            if path is None:
                continue
            with contextlib.suppress(OSError, DataplaneError):
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
                try:
                    self.added(pod.about, fd)
                finally:
                    os.close(fd)

    def _forget_gone(self) -> None:
        now, mounted = self._clock(), self._mounted()
        gone: list[_Pod] = []
        with self._lock:
            for uid, pod in tuple(self._pods.items()):
                if pod.home in mounted:
                    pod.seen = now
                elif now - pod.seen > PATIENCE_SECONDS:
                    gone.append(self._pods.pop(uid))
        for pod in gone:
            if pod.waiting is not None:
                pod.waiting.close()
            if pod.delivered and self._connection is not None:
                with contextlib.suppress(OSError):  # then it will hear that it is gone, or end
                    _send(self._connection, Closed(pod.about.uid))

    def _mounted(self) -> dict[Home, Path]:
        """The namespaces that are mounted now, by what they are."""
        found: dict[Home, Path] = {}
        try:
            paths = tuple(self._folder.iterdir())
        except OSError:
            return found
        for path in paths:
            with contextlib.suppress(OSError):  # it has just gone
                status = path.stat()
                if stat.S_ISREG(status.st_mode):
                    found[status.st_dev, status.st_ino] = path
        return found


def _send(
    connection: socket.socket, message: Message, listener: socket.socket | None = None
) -> None:
    fds = [listener.fileno()] if listener is not None else []
    socket.send_fds(connection, [encode(message)], fds)


def about_of(pod: Pod) -> Opened | None:
    """The pod, where it is one of the mesh; None where it is not."""
    annotations = pod.annotations
    if annotations.get(MESH_ANNOTATION) != ENABLED or ANNOTATION not in annotations:
        return None
    try:
        redirect = parse_redirect(annotations[ANNOTATION])
    except BadRedirect:
        return None
    namespace = pod.metadata.namespace or "default"
    return Opened(pod.metadata.uid, namespace, pod.metadata.name, redirect.proxy_uid)
