"""A stream for logs that never makes its writer wait: what nobody reads in time is dropped.

A process writes its log to a pipe of the container runtime. If that is not read, a full disk for
instance, a blocking write would hold up whoever logs: the webhook's event loop, a pod's ADD.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
from collections import deque

_MOST_BYTES = 1 << 20
_LAST_WORDS_SECONDS = 1.0


class LossyStream:
    """Text goes to a file descriptor by a thread of its own; `write` may be called by any thread.

    At most ``most_bytes`` wait. How many lines were dropped is said as soon as lines are read
    again.
    """

    def __init__(self, descriptor: int, most_bytes: int = _MOST_BYTES) -> None:
        self._descriptor = descriptor
        self._most_bytes = most_bytes
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._dropped = 0
        self._is_writing = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def write(self, text: str) -> int:
        """Take the text; never waits."""
        line = text.encode(errors="backslashreplace")
        with self._changed:
            if self._thread is None:
                self._start()
            if self._bytes + len(line) > self._most_bytes:
                self._dropped += 1
            else:
                self._lines.append(line)
                self._bytes += len(line)
                self._changed.notify()
        return len(text)

    def flush(self) -> None:
        """Nothing: the thread is at it."""

    def isatty(self) -> bool:
        """Never: a terminal is written to directly."""
        return False

    def drain(self, seconds: float = _LAST_WORDS_SECONDS) -> bool:
        """Wait until all is written, for so long at most; whether it is."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not self._lines and not self._is_writing, timeout=seconds
            )

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()
        atexit.register(self.drain)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._is_writing = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: bool(self._lines))
                chunk = b"".join(self._lines)
                self._lines.clear()
                self._bytes = len(chunk)
                self._is_writing = True
            with contextlib.suppress(OSError):  # a reader that went away for good
                self._write(chunk)
            with self._changed:
                self._bytes -= len(chunk)
                if self._dropped:
                    told = _told(self._dropped)
                    self._lines.append(told)
                    self._bytes += len(told)
                    self._dropped = 0

    def _write(self, chunk: bytes) -> None:
        while chunk:
            chunk = chunk[os.write(self._descriptor, chunk) :]


def _told(dropped: int) -> bytes:
    return (
        '{"level":"warning","msg":"log lines were dropped: they were not read in time",'
        f'"lines":{dropped}}}\n'
    ).encode()
