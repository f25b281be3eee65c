"""Threads that work beside the serving ones until they are told to stop, whatever defect they meet.

A part that raises is logged and starts anew after a pause: pods go on being answered meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from vocabulary.errors import MeshgraftError

RESTART_SECONDS = 5.0
_STOP_SECONDS = 10.0
"""How long a part that was told to stop is waited for: a host's file system may hang."""

_log = structlog.get_logger("process.threads")


class NoMoreThreads(MeshgraftError):
    """A thread could not be started; the text says which, and what to raise."""


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that goes on beside the calls."""

    name: str
    """For the thread, the log and /livez: "installer"."""
    run: Callable[[threading.Event], None]
    """Works until the event is set, and then ends soon."""


class Background:
    """The parts, each in a thread of its own; `start` and `stop` are for one thread, once each."""

    def __init__(self, parts: Sequence[Part], restart_seconds: float = RESTART_SECONDS) -> None:
        """``restart_seconds`` is the pause before a part that ended starts anew."""
        self._restart_seconds = restart_seconds
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._keep_running, args=(part,), name=part.name, daemon=True)
            for part in parts
        ]

    def start(self) -> None:
        """Begin.

        Raises:
            NoMoreThreads: one could not be started; those before it are stopped again.
        """
        for thread in self._threads:
            try:
                thread.start()
            except RuntimeError as error:
                self.stop()
                raise NoMoreThreads(
                    f"cannot start the thread {thread.name!r}: {error}; "
                    "raise the limit of processes (pids) of the agent's container"
                ) from error

    def stop(self) -> None:
        """Tell all to stop, and wait for them; one that hangs is left to the process's end."""
        self._stopping.set()
        for thread in self._threads:
            if thread.ident is None:
                continue
            thread.join(_STOP_SECONDS)
            if thread.is_alive():
                _log.warning("still at work; not waited for", part=thread.name)

    def problems(self) -> list[str]:
        """Which parts are not at work though they should be, a sentence each."""
        if self._stopping.is_set():
            return []
        return [
            f"the thread {thread.name!r} has ended"
            for thread in self._threads
            if not thread.is_alive()
        ]

    def _keep_running(self, part: Part) -> None:
        while not self._stopping.is_set():
            try:
                part.run(self._stopping)
            except Exception:  # noqa: BLE001 - a bug in one part must not end it for good
                _log.exception("background work failed", part=part.name)
            self._stopping.wait(self._restart_seconds)
