"""The agent: a server on a Unix socket that answers the calls of the static plugin program.

A fixed number of threads each take a connection, read one request, answer it and close. What no
thread is free for waits in the kernel's backlog, where the plugin program's own deadline bounds it.
Large requests are answered one after the other by a thread of their own, so that pods with very
long annotations wait for each other, and no other pod for them.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from cni_plugin.agent.backlog import backlog
from cni_plugin.agent.handler import Answer, handle, internal_error
from cni_plugin.agent.metrics import Metrics
from cni_plugin.agent.protocol import ProtocolError, Request
from cni_plugin.agent.wire import Wire
from cni_plugin.dataplane.backends import Backend
from cni_plugin.dataplane.expected import Expected
from cni_plugin.pods.source import PodSource
from vocabulary.errors import MeshgraftError

DEFAULT_SOCKET = Path("/run/linkerd-cni/agent.sock")
STUCK_SECONDS = 120.0
"""No call takes this long: reading, look-ups and sending are bounded, and rules take ms."""
LARGE_BYTES = 6 * 1024
"""Of a request's stdin. Usual ones have 2 to 4 KiB; it takes an annotation of hundreds of ports or
subnets, which cost milliseconds, or one that somebody else put there, to have more."""
MOST_LARGE_BYTES = 16 << 20
"""So much of them waits; the program of one that is turned away tries again."""
_LARGE_THREAD = "cni-large"
_BACKLOG = 256
_DRAIN_TICK = 0.01
_PEER = struct.Struct("iII")

_log = structlog.get_logger("cni_plugin.agent.server")


class AgentError(MeshgraftError):
    """The agent cannot begin to serve; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """How the agent serves. ``deadline_seconds`` bounds reading a request, and then sending its
    answer; it is below the plugin program's own 10 s."""

    socket_path: Path = DEFAULT_SOCKET
    threads: int = 8
    deadline_seconds: float = 8.0


@dataclass(frozen=True, slots=True)
class _Call:
    """A request that was read, and what there is to close once it is answered."""

    wire: Wire
    request: Request
    netns_fd: int | None
    started: float
    held: ExitStack


class Agent:
    """Serves until it is stopped; `start` and `stop` are for one thread, once each."""

    def __init__(
        self,
        settings: AgentSettings,
        backend: Backend,
        pods: PodSource,
        metrics: Metrics,
        expected: Expected | None = None,
        on_meshed: Callable[[Answer, int], None] | None = None,
    ) -> None:
        """``expected`` is told whose network namespace each ADD names; ``on_meshed``, before the
        runtime has its answer, of each pod of the mesh whose rules are set."""
        self._on_meshed = on_meshed
        self._settings = settings
        self._expected = expected
        self._backend = backend
        self._pods = pods
        self._metrics = metrics
        self._listener: socket.socket | None = None
        self._inode = 0
        self._threads: list[threading.Thread] = []
        self._busy: dict[str, float] = {}
        """Since when (monotonic) each thread that is at a call has been."""
        self._stopping = threading.Event()
        self._large_bytes = 0
        self._large_lock = threading.Lock()
        self._large: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._large_thread = threading.Thread(target=self._serve_large, name=_LARGE_THREAD)

    @property
    def backend_name(self) -> str:
        """How rules are set: ``nft`` or ``legacy``."""
        return self._backend.name

    def start(self) -> None:
        """Listen, with mode 0600, and begin to answer; a socket that is there is replaced.

        Raises:
            AgentError: the socket cannot be made there, or there may be no more threads.
        """
        path = self._settings.socket_path
        self._listener, self._inode = _listen(path)
        try:
            self._large_thread.start()
            for number in range(self._settings.threads):
                self._start_thread(f"cni-{number}", self._listener)
        except RuntimeError as error:
            self.stop()  # threads that serve would keep a process alive that gave up
            raise AgentError(
                f"cannot start {self._settings.threads} threads: {error}; "
                "raise the limit of processes (pids) of the agent's container"
            ) from error

    def _start_thread(self, name: str, listener: socket.socket) -> None:
        thread = threading.Thread(target=self._serve, name=name, args=(listener,))
        thread.start()
        self._threads.append(thread)

    def is_ready(self) -> bool:
        """Whether calls are answered here."""
        return not self.problems()

    def problems(self) -> list[str]:
        """Why calls are not answered here, if they are not; for /readyz."""
        if self._listener is None:
            return [f"calls are not answered at {self._settings.socket_path}"]
        if self.is_superseded():
            return [f"a later agent answers the calls at {self._settings.socket_path}"]
        return self.failures()

    def failures(self) -> list[str]:
        """What only a new start fixes, for /livez: no socket, or threads dead or stuck."""
        if self._listener is None:
            return []
        found = []
        threads = [*self._threads, self._large_thread]
        dead = sum(not thread.is_alive() for thread in threads)
        if dead:
            found.append(f"{dead} of {len(threads)} threads have ended")
        if self._inode_at_path() is None:
            found.append(f"there is no socket at {self._settings.socket_path} any more")
        elif self.is_superseded() and _is_abandoned(self._settings.socket_path):
            found.append(f"the later agent that took {self._settings.socket_path} over is gone")
        oldest = time.monotonic() - STUCK_SECONDS
        stuck = {name for name, since in list(self._busy.items()) if since < oldest}
        if _LARGE_THREAD in stuck or len(stuck) == len(self._threads):
            found.append(f"all threads are at calls that began over {STUCK_SECONDS:g} s ago")
        return found

    def is_superseded(self) -> bool:
        """Whether the socket there is a later agent's, which has taken over."""
        return self._inode_at_path() not in (None, self._inode)

    @property
    def in_flight(self) -> int:
        """How many calls are being answered now."""
        return len(self._busy) + self._large.qsize()

    def waiting(self) -> int | None:
        """How many calls no thread has taken yet; None where the kernel does not tell."""
        listener = self._listener
        return None if listener is None else backlog(listener)

    def _inode_at_path(self) -> int | None:
        try:
            return self._settings.socket_path.stat().st_ino
        except OSError:
            return None

    def stop(self) -> None:
        """Take no more calls, finish those that were made, and remove the socket."""
        listener, self._listener = self._listener, None
        if listener is None:
            return
        if self._inode_at_path() == self._inode:  # else it is a later agent's
            self._settings.socket_path.unlink()
        self._drain(listener)
        self._stopping.set()
        listener.shutdown(socket.SHUT_RDWR)  # wakes every thread that waits in accept
        for thread in self._threads:
            thread.join()
        if self._large_thread.is_alive():
            self._large.put(None)
            self._large_thread.join()
        listener.close()

    def _drain(self, listener: socket.socket) -> None:
        """Wait, within limits, until no connection waits for a thread; no more come."""
        end = time.monotonic() + self._settings.deadline_seconds
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        while poll.poll(0) and any(thread.is_alive() for thread in self._threads):
            if time.monotonic() > end:
                _tell(_log.warning, "calls are left unanswered; they are told to try again")
                return
            self._stopping.wait(_DRAIN_TICK)

    def _serve(self, listener: socket.socket) -> None:
        while not self._stopping.is_set():
            try:
                connection, _ = listener.accept()
            except OSError as error:
                if not self._stopping.is_set():
                    _tell(_log.error, "accepting a call failed", error=str(error))
                    self._stopping.wait(0.1)  # out of descriptors: let others finish
                continue
            name = threading.current_thread().name
            self._busy[name] = time.monotonic()
            with ExitStack() as held:
                held.enter_context(connection)
                try:
                    self._serve_one(connection, held)
                except Exception:  # noqa: BLE001 - one call must not take a thread from the others
                    self._metrics.refused()
                    _tell(_log.exception, "call not answered")
                finally:
                    del self._busy[name]

    def _serve_large(self) -> None:
        while (call := self._large.get()) is not None:
            self._busy[_LARGE_THREAD] = time.monotonic()
            self._release(len(call.request.stdin))
            with call.held:
                try:
                    self._finish(call)
                except Exception:  # noqa: BLE001 - as above
                    self._metrics.refused()
                    _tell(_log.exception, "call not answered")
                finally:
                    del self._busy[_LARGE_THREAD]

    def _serve_one(self, connection: socket.socket, held: ExitStack) -> None:
        """Answer one connection; what is wrong with it is logged and ends it alone."""
        started = time.perf_counter()
        try:
            _check_peer(connection)
            wire = Wire(connection, self._settings.deadline_seconds)
            request, netns_fd = wire.receive()
        except (ProtocolError, OSError) as error:
            self._metrics.refused()
            _tell(_log.warning, "call not answered", error=str(error) or type(error).__name__)
            return
        if netns_fd is not None:
            held.callback(os.close, netns_fd)
        if len(request.stdin) <= LARGE_BYTES:
            self._finish(_Call(wire, request, netns_fd, started, held))
        elif self._reserve(len(request.stdin)):
            self._large.put(_Call(wire, request, netns_fd, started, held.pop_all()))
        else:
            self._metrics.refused()
            _tell(_log.warning, "call turned away: too many with long annotations wait already")

    def _reserve(self, size: int) -> bool:
        """Whether one more large request may wait."""
        with self._large_lock:
            if self._large_bytes + size > MOST_LARGE_BYTES:
                return False
            self._large_bytes += size
            return True

    def _release(self, size: int) -> None:
        with self._large_lock:
            self._large_bytes -= size

    def _finish(self, call: _Call) -> None:
        if call.wire.is_abandoned():
            # The runtime tries again by a new call. Worked off, the old ones of a burst would keep
            # the threads from the new ones.
            self._metrics.refused()
            _tell(_log.info, "call dropped: its caller is gone")
            return
        answer = self._answer(call.request, call.netns_fd)
        try:
            call.wire.send(answer.response.encode())
        except (ProtocolError, OSError) as error:
            answer = _undelivered(answer, error)
        self._report(answer, time.perf_counter() - call.started)

    def _answer(self, request: Request, netns_fd: int | None) -> Answer:
        try:
            if netns_fd is not None and _is_own_netns(netns_fd):
                why = "it is the agent's own network namespace"
                return handle(request, None, self._backend, self._pods, refused=why)
            answer = handle(request, netns_fd, self._backend, self._pods)
            if netns_fd is not None and answer.command == "ADD" and answer.result != "failed":
                self._remember(answer, netns_fd)
            return answer
        except Exception:  # noqa: BLE001 - a bug met by one pod must not stop the others
            answer = internal_error(request)
            _tell(_log.exception, "unexpected error", command=answer.command, pod=answer.pod)
            return answer

    def _remember(self, answer: Answer, netns_fd: int) -> None:
        if self._expected is not None and answer.uid:
            self._expected.live_in(answer.uid, netns_fd)
        if self._on_meshed is not None and answer.proxy_uid is not None:
            self._on_meshed(answer, netns_fd)

    def _report(self, answer: Answer, seconds: float) -> None:
        self._metrics.answered(answer, self._backend.name, seconds)
        failed = answer.result == "failed"
        log = _log.warning if failed or answer.warnings else _log.info
        fields: dict[str, object] = {
            "command": answer.command,
            "pod": answer.pod,
            "decision": answer.result,
            "reason": answer.reason,
            "ms": round(seconds * 1000, 2),
        }
        if answer.rules_seconds is not None:
            fields |= {
                "backend": self._backend.name,
                "rulesMs": round(answer.rules_seconds * 1000, 2),
            }
        if answer.warnings:
            fields["warnings"] = list(answer.warnings)
        if failed:
            fields["error"] = answer.error
        _tell(log, "call answered", **fields)


def _tell(log: Callable[..., object], event: str, **fields: object) -> None:
    """Log, if it can be: a stderr that nobody reads or no disk takes must not end a thread."""
    with contextlib.suppress(OSError):
        log(event, **fields)


def _undelivered(answer: Answer, error: Exception) -> Answer:
    """The answer as it is logged and counted where its caller did not get it."""
    text = (
        f"the answer ({answer.error or answer.result}) could not be sent: {error}; "
        "the runtime was told to try again, or gave up before"
    )
    return replace(answer, result="failed", reason="not-delivered", error=text)


def _check_peer(connection: socket.socket) -> None:
    """Only root and the agent's own user may ask: a call changes a pod's traffic rules."""
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    pid, uid, _ = _PEER.unpack(data)
    if uid not in (0, os.geteuid()):
        raise ProtocolError(f"process {pid} of uid {uid} may not call the agent")


def _is_own_netns(fd: int) -> bool:
    """Rules set here would redirect the agent's traffic (on hostNetwork: the node's), no pod's."""
    theirs, ours = os.fstat(fd), Path("/proc/self/ns/net").stat()
    return (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino)


def _listen(path: Path) -> tuple[socket.socket, int]:
    """A listening socket at ``path``, for its owner only, and its inode.

    It takes the place of an earlier agent's by rename: on an upgrade there is no moment without
    a socket, and the earlier agent finishes what it began.
    """
    if path.exists() and not path.is_socket():
        raise AgentError(f"cannot listen on {path}: there is something else than a socket")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        inode = _bind(listener, path)
    except OSError as error:
        listener.close()
        raise AgentError(f"cannot listen on {path}: {error.strerror or error}") from error
    return listener, inode


def _bind(listener: socket.socket, path: Path) -> int:
    # Not by the process's id: in containers that is 1 for every agent.
    temporary = path.with_name(f"{path.name}.{os.urandom(4).hex()}")
    listener.bind(str(temporary))
    try:
        temporary.chmod(0o600)  # before listen: nobody has connected yet
        listener.listen(_BACKLOG)
        inode = temporary.stat().st_ino
        temporary.rename(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return inode


def _is_abandoned(path: Path) -> bool:
    """Whether the process that listened there is gone. Asked by a datagram, of which a stream
    socket that lives says only that it is of another type: its owner sees nothing of it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect(str(path))
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False
