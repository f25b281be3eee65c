"""Work that goes on beside the reviews, and that no defect may end for good."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

RESTART_SECONDS = 5.0

_log = structlog.get_logger()

Work = Callable[[], Awaitable[None]]
"""Runs until it is cancelled."""


async def keep_running(name: str, work: Work) -> None:
    """Run it until cancelled. A defect in it is logged, and it starts anew: reviews go on."""
    while True:
        try:
            await work()
            _log.error("background work ended", work=name, restartSeconds=RESTART_SECONDS)
        except Exception:  # noqa: BLE001, whatever it is must not end the process
            _log.exception("background work failed", work=name, restartSeconds=RESTART_SECONDS)
        await asyncio.sleep(RESTART_SECONDS)
