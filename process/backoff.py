"""How long to wait before trying again, so that many who wait do not come back together."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(slots=True)
class Backoff:
    """How long to wait before the next attempt: twice as long each time, never at the same time."""

    first: float = 0.25
    longest: float = 30.0
    failures: int = 0
    """In a row."""

    def next(self, asked: float = 0.0) -> float:
        """Seconds to wait now; at least what the other side asked for."""
        ceiling = min(self.longest, self.first * 2.0 ** min(self.failures, 16))
        self.failures += 1
        spread = random.uniform(0.5, 1.0) * ceiling  # noqa: S311, this is no secret
        # Those who were all told the same number of seconds are not to come back together.
        return max(spread, asked * random.uniform(1.0, 1.2))  # noqa: S311

    def reset(self) -> None:
        """Start over: the last attempt went well."""
        self.failures = 0
