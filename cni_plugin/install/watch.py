"""Calls the installer whenever a watched folder changes, from time to time, and when it asks.

inotify tells of a change within a tenth of a second. Where it cannot (no instances left, a file
system without it, a folder that is missing or was put in another's place), folders are looked at
every few seconds instead, and inotify is tried again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog
from watchfiles import watch

_log = structlog.get_logger("cni_plugin.install.watch")


@dataclass(frozen=True, slots=True)
class WatchTimes:
    """All in seconds, and none of them a promise."""

    settle: float = 0.1
    """Changes that follow each other this closely are one."""
    longest_settle: float = 1.0
    """A folder that never comes to rest is looked at after this long."""
    tick: float = 1.0
    """How often it is seen whether anything is due, or a folder was exchanged."""
    poll: float = 30.0
    """All is looked at this often in any case."""
    blind_poll: float = 2.0
    """The same, without inotify."""


def keep_reconciled(
    folders: Callable[[], Sequence[Path]],
    beat: Callable[[], float | None],
    stop: threading.Event,
    times: WatchTimes = WatchTimes(),
) -> None:
    """Call ``beat`` now, upon each change, and when due, until ``stop`` is set.

    ``beat`` returns after how many seconds it wants to be called again at the latest, or None.
    What it raises is logged and does not end the loop.
    """
    loop = _Loop(folders, beat, stop, times)
    while not stop.is_set():
        loop.watch_once()


@dataclass(slots=True)
class _Loop:
    folders: Callable[[], Sequence[Path]]
    beat: Callable[[], float | None]
    stop: threading.Event
    times: WatchTimes
    due: float = 0.0
    complaint: str = ""

    def watch_once(self) -> None:
        """Watch the folders as they are now, until they are others."""
        watched = self._identities()
        self._beat_if(True, self.times.poll)
        try:
            for changed in self._changes(watched):
                self.complaint = ""
                self._beat_if(changed, self.times.poll)
                if self._identities() != watched:
                    return
        except (OSError, RuntimeError) as error:
            # watchfiles tells of a lack of inotify instances by a RuntimeError of its own
            self._complain(str(error))
        self.stop.wait(self.times.blind_poll)

    def _changes(self, watched: dict[Path, tuple[int, int]]) -> Iterator[bool]:
        """True upon each change and at the first tick (what changed before the watch began is
        never told), False at the others."""
        if not watched:
            self._complain("none of the folders is there")
            return
        first = True
        for changes in watch(
            *watched,
            recursive=False,
            watch_filter=lambda _change, path: not path.endswith(".install"),
            debounce=int(self.times.longest_settle * 1000),
            step=int(self.times.settle * 1000),
            rust_timeout=int(self.times.tick * 1000),
            yield_on_timeout=True,
            stop_event=self.stop,
            raise_interrupt=False,
        ):
            yield bool(changes) or first
            first = False

    def _beat_if(self, changed: bool, poll: float) -> None:
        if self.stop.is_set() or (not changed and time.monotonic() < self.due):
            return
        wanted: float | None = None
        try:
            wanted = self.beat()
        except Exception:  # noqa: BLE001 - the node must not lose its installer by a bug
            _log.exception("unexpected error; trying again")
        self.due = time.monotonic() + min(poll, poll if wanted is None else wanted)

    def _identities(self) -> dict[Path, tuple[int, int]]:
        """The folders that are there, and which ones they are."""
        found = {}
        for folder in self.folders():
            try:
                status = folder.stat()
            except OSError:
                continue
            found[folder] = (status.st_dev, status.st_ino)
        return found

    def _complain(self, complaint: str) -> None:
        if complaint != self.complaint:
            _log.warning("cannot watch folders; looking from time to time", error=complaint)
            self.complaint = complaint
