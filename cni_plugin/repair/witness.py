"""Tells the validators that wait in this node's pods whether the rules there are right.

It looks for them where they listen (`inbound_word`), in every network namespace of which it is
known what rules belong there: often while the namespace is young. No API server is needed.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from cni_plugin.dataplane.backends import Backend
from cni_plugin.dataplane.errors import DataplaneError
from cni_plugin.dataplane.expected import Expected, Key, key_of
from cni_plugin.dataplane.inbound_word import tell
from cni_plugin.dataplane.netns import open_netns
from cni_plugin.pods.netns import RUN_NETNS
from vocabulary.annotations.redirect import Redirect

TICK_SECONDS = 0.1
YOUNG_SECONDS = 30.0
"""For how long a namespace is looked at in each round, or until its validator was told."""
OLD_SECONDS = 2.0
"""How often it is looked at afterwards: an image took long to pull, a validator runs again."""
REST = 50.0
"""A namespace is left in peace for this many times as long as the processor was busy with it: what
listens there may be the pod's own, and its rules as many as a pod's author likes."""

ROUND = 0.25
"""Seconds of the processor in one round, for all namespaces together; the rest come first in the
next."""

_log = structlog.get_logger("cni_plugin.repair.witness")


class Witness:
    """`run` is for one thread."""

    def __init__(
        self,
        backend: Backend,
        expected: Expected,
        folder: Path = RUN_NETNS,
        clock: Callable[[], float] = time.monotonic,
        spent: Callable[[], float] = time.thread_time,
    ) -> None:
        """``clock`` gives seconds; ``spent``, how many of them the processor was at work."""
        self._backend = backend
        self._expected = expected
        self._folder = folder
        self._clock = clock
        self._spent = spent
        self._since: dict[Path, tuple[Key, float]] = {}
        """The namespace at a path, and since when it is there."""
        self._rests: dict[Path, float] = {}
        """Until when a namespace is not looked at."""
        self._visited: dict[Path, float] = {}
        """When a namespace was looked at last."""
        self._old_due = 0.0

    def run(self, stop: threading.Event) -> None:
        """Tell until ``stop`` is set."""
        while not stop.wait(TICK_SECONDS):
            self.look()

    def look(self) -> None:
        """One round."""
        now = self._clock()
        all_due = now >= self._old_due
        if all_due:
            self._old_due = now + OLD_SECONDS
        try:
            paths = set(self._folder.iterdir())
        except FileNotFoundError:
            paths = set()  # no pod has had a network yet
        self._since = {path: seen for path, seen in self._since.items() if path in paths}
        self._rests = {path: end for path, end in self._rests.items() if end > now}
        self._visited = {path: at for path, at in self._visited.items() if path in paths}
        begun = self._spent()
        for path in sorted(
            paths - self._rests.keys(), key=lambda path: self._visited.get(path, -1)
        ):
            if self._spent() - begun > ROUND:
                self._old_due = min(self._old_due, now)
                return
            seen = self._since.get(path)
            if all_due or seen is None or now - seen[1] < YOUNG_SECONDS:
                self._visit(path, now)

    def _visit(self, path: Path, now: float) -> None:
        before = self._spent()
        try:
            self._look_into(path, now)
        except Exception:  # noqa: BLE001 - one namespace must not keep the word from the others
            _log.exception("validator not told", netns=str(path))
        self._visited[path] = now
        self._rests[path] = now + REST * (self._spent() - before)

    def _look_into(self, path: Path, now: float) -> None:
        try:
            fd = open_netns(str(path))
        except DataplaneError:
            return  # it has just gone
        try:
            key = key_of(fd)
            if self._since.get(path, (None,))[0] != key:
                self._since[path] = key, now
            redirect = self._expected.get(key)
            if redirect is not None and self._tell(path, fd, redirect):
                self._since[path] = key, -math.inf
        finally:
            os.close(fd)

    def _tell(self, path: Path, fd: int, redirect: Redirect) -> bool:
        """Whether a validator was told that all is right."""
        try:
            return tell(fd, lambda: self._backend.difference(fd, redirect)) == "right"
        except (DataplaneError, OSError) as error:
            _log.debug("validator not told", netns=str(path), error=str(error))
            return False
