"""Bounds how often one file is rewritten while another tool rewrites it too."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable
from pathlib import Path


class Backoff:
    """How often one file may be written: three times at once, then less and less often.

    Two tools that each put themselves last, or one that takes our entry out, would else rewrite
    a file in turns for ever, and have the runtime reload it each time.
    """

    FREE = 3
    WINDOW_SECONDS = 1800.0
    FIRST_SECONDS = 5.0
    LONGEST_SECONDS = 300.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._writes: defaultdict[Path, deque[float]] = defaultdict(deque)

    def wrote(self, path: Path) -> None:
        """Remember a write."""
        self._writes[path].append(self._clock())

    def wait(self, path: Path) -> float:
        """Seconds until the file may be written again; 0 is now."""
        writes, now = self._writes[path], self._clock()
        while writes and now - writes[0] > self.WINDOW_SECONDS:
            writes.popleft()
        surplus = len(writes) - self.FREE
        if surplus < 0:
            return 0.0
        pause = min(self.FIRST_SECONDS * 2.0 ** min(surplus, 30), self.LONGEST_SECONDS)
        return max(0.0, writes[-1] + pause - now)
