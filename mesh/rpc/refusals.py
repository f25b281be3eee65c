"""What is refused: counted each time, and logged once for each reason and caller."""

from __future__ import annotations

import structlog
from cachetools import TTLCache
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from prometheus_client import CollectorRegistry, Counter

REPEAT_SECONDS = 600.0

_log = structlog.get_logger()


class Refusals:
    """One process's."""

    def __init__(self, registry: CollectorRegistry, name: str) -> None:
        """``name`` is the counter's, without ``_total``; its label ``why`` has few values."""
        self._counter = Counter(
            name, "Calls that were refused, by why.", ("why",), registry=registry
        )
        self._told: TTLCache[tuple[str, str], None] = TTLCache(1024, REPEAT_SECONDS)

    def refuse(self, why: str, about: str, text: str, status: Status) -> GRPCError:
        """The error to raise; ``why`` is one word, ``about`` whom it concerns."""
        self._counter.labels(why).inc()
        if (why, about) not in self._told:
            self._told[why, about] = None
            _log.warning("call refused", why=why, about=about, error=text)
        return GRPCError(status, text)
