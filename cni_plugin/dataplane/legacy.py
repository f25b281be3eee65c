"""The legacy iptables backend: requests to one worker process, in which libiptc lives."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import weakref
from dataclasses import dataclass
from pathlib import Path

import msgspec

from cni_plugin.dataplane.errors import (
    InvalidRedirectError,
    LegacyError,
    NetnsError,
    WorkerDiedError,
)
from cni_plugin.dataplane.legacy_worker import Answer, Request, receive, send
from cni_plugin.dataplane.netns import identity
from vocabulary.annotations.redirect import Redirect

_TIMEOUT = 6.0
"""Seconds for one request. It takes milliseconds, and the first one, which also loads the
libraries, some tenths; the plugin program waits 10 s in all, and is to hear what happened."""

_ERRORS = {cls.__name__: cls for cls in (InvalidRedirectError, NetnsError)}
"""Errors that keep their class on the way from the worker."""
_HOME = str(Path(__file__).resolve().parents[2])
"""Where this package and its like are: the worker finds them there, however they came here."""


@dataclass(frozen=True, slots=True)
class _Worker:
    process: subprocess.Popen[bytes]
    channel: socket.socket


class LegacyBackend:
    """Keeps a pod's rules in the legacy nat tables of its own namespace, as proxy-init does.

    One worker process, started on the first request and again when it has died. Requests of all
    threads wait for each other; each takes a few milliseconds.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._worker: _Worker | None = None
        self._stop: weakref.finalize[[_Worker], LegacyBackend] | None = None

    @property
    def name(self) -> str:
        return "legacy"

    def apply(self, netns_fd: int, redirect: Redirect) -> bool:
        """Make the rules those of ``redirect``; tables that are right already are not touched.

        Raises:
            DataplaneError: nothing was changed, unless the text says otherwise.
        """
        return self._ask(Request("apply", redirect), netns_fd).changed

    def remove(self, netns_fd: int) -> bool:
        """Delete our chains and the jumps into them. False where there were none."""
        return self._ask(Request("remove"), netns_fd).changed

    def difference(self, netns_fd: int, redirect: Redirect) -> str | None:
        """The first difference between the tables and what they should be, or None."""
        return self._ask(Request("difference", redirect), netns_fd).text

    def unavailable(self) -> str | None:
        """None where everything needed is there, else what is missing."""
        try:
            return self._ask(Request("probe"), None).text
        except LegacyError as error:
            return str(error)

    def close(self) -> None:
        """End the worker. The backend can be used again; a new one is started then."""
        with self._lock:
            self._discard()

    def _ask(self, request: Request, netns_fd: int | None) -> Answer:
        if netns_fd is not None:
            identity(netns_fd)  # a closed one would look like the worker's fault
        with self._lock:
            worker = self._started()
            try:
                send(worker.channel, request, netns_fd)
                answer, _ = receive(worker.channel, Answer)
            except (OSError, EOFError, msgspec.DecodeError) as error:
                raise self._gave_up(worker, error) from error
        if answer.error is not None:
            raise _ERRORS.get(answer.kind, LegacyError)(answer.error)
        return answer

    def _started(self) -> _Worker:
        """The worker; one that died since the last request is replaced."""
        if self._worker is not None and self._worker.process.poll() is not None:
            self._discard()
        if self._worker is None:
            self._worker = _start()
            self._stop = weakref.finalize(self, _end, self._worker)
        return self._worker

    def _discard(self) -> None:
        if self._stop is not None:
            self._stop()
        self._worker = self._stop = None

    def _gave_up(self, worker: _Worker, error: Exception) -> WorkerDiedError:
        self._discard()
        what = (
            f"did not answer within {_TIMEOUT:g} s and was ended"
            if isinstance(error, TimeoutError)
            else f"ended (status {worker.process.returncode}); see its last words on stderr"
        )
        return WorkerDiedError(
            f"the worker process for legacy iptables {what}; whether the rules were set is not "
            "known: try again, applying is idempotent"
        )


def _start() -> _Worker:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with theirs:
        try:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "cni_plugin.dataplane.legacy_worker",
                    str(theirs.fileno()),
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": _HOME},
                start_new_session=True,  # a signal to our group must not break a request
            )
        except OSError as error:
            ours.close()
            raise LegacyError(f"cannot start the worker for legacy iptables: {error}") from error
    ours.settimeout(_TIMEOUT)
    return _Worker(process, ours)


def _end(worker: _Worker) -> None:
    """Close the channel, upon which the worker ends; make sure that it does."""
    worker.channel.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        worker.process.wait(timeout=1)
        return
    worker.process.kill()
    worker.process.wait()
