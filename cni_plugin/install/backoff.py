"""Bounds how often one file is rewritten while another tool rewrites it too."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(slots=True)
class _Quarrel:
    """Our last write of one file, and how many in a row were undone at once."""

    wrote: float
    is_judged: bool = False
    undone: int = 0


class Backoff:
    """How often one file may be written: three times at once, then less and less often.

    Two tools that each put themselves last, or one that takes our entry out, would else rewrite
    a file in turns for ever, and have the runtime reload it each time. Who answers a write of ours
    quarrels; who comes later, as a primary CNI does that starts again and again, does not.
    """

    FREE = 3
    ANSWER_SECONDS = 5.0
    """Whatever undoes a write within these answers it."""
    FIRST_SECONDS = 5.0
    LONGEST_SECONDS = 300.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._quarrels: dict[Path, _Quarrel] = {}

    def wrote(self, path: Path) -> None:
        """Remember a write."""
        before = self._quarrels.get(path)
        undone = before.undone if before else 0
        self._quarrels[path] = _Quarrel(self._clock(), undone=undone)

    def wait(self, path: Path) -> float:
        """Seconds until the file, which is not as we wrote it, may be written again; 0 is now."""
        quarrel, now = self._quarrels.get(path), self._clock()
        if quarrel is None:
            return 0.0
        if not quarrel.is_judged:
            quarrel.is_judged = True
            answered = now - quarrel.wrote <= self.ANSWER_SECONDS
            quarrel.undone = quarrel.undone + 1 if answered else 0
        surplus = quarrel.undone - self.FREE
        if surplus < 0:
            return 0.0
        pause = min(self.FIRST_SECONDS * 2.0 ** min(surplus, 30), self.LONGEST_SECONDS)
        return max(0.0, quarrel.wrote + pause - now)
