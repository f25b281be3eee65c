"""Request bodies, read with bounds: on one body's length, on its time, and on all at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass

from fastapi import Request
from starlette.requests import ClientDisconnect

from injector.service.connection_limit import peer_of
from injector.service.review import MAX_BODY_BYTES, BodyTooLargeError, ReviewError

BODY_SECONDS = 10.0
"""Longer than this the API server does not wait for a whole review by default."""
TOTAL_BYTES = 24 * 1024 * 1024
"""What all bodies together may hold: seven of the largest, or thousands as they are."""


class SlowBodyError(ReviewError):
    """The body did not arrive in time."""

    status = 408
    cause = "timeout"


class BusyError(ReviewError):
    """Other requests hold all the memory there is for bodies."""

    status = 503
    cause = "busy"


@dataclass(eq=False, slots=True)
class _Held:
    """One body, from its first byte to the answer."""

    peer: str
    timeout: asyncio.Timeout | None = None
    """While it is being read."""
    size: int = 0
    evicted: bool = False


class BodyReader:
    """Reads bodies and keeps count, so that no number of clients can exhaust the memory.

    Where that is all in use, the client that holds most loses a body for the one that comes.
    """

    def __init__(
        self,
        *,
        limit: int = MAX_BODY_BYTES,
        total: int = TOTAL_BYTES,
        seconds: float = BODY_SECONDS,
    ) -> None:
        """Bounds: bytes of one body, bytes of all that are being read, seconds for one."""
        self._limit = limit
        self._total = total
        self._seconds = seconds
        self._bodies: dict[_Held, None] = {}
        self._total_held = 0

    @contextlib.asynccontextmanager
    async def reading(self, request: Request) -> AsyncIterator[bytes]:
        """The whole body, which counts as held until the end of the block.

        Raises:
            BodyTooLargeError: as soon as it is known, before the rest is read.
            SlowBodyError: it took too long.
            BusyError: too much is being read already.
            ReviewError: the client went away.
        """
        declared = request.headers.get("content-length", "")
        # The number of digits first: int() of a thousand of them is work, or an error.
        if declared.isdecimal() and (len(declared) > 18 or int(declared) > self._limit):
            raise BodyTooLargeError
        held = _Held(peer_of(request.client.host if request.client else ""))
        self._bodies[held] = None
        try:
            yield await self._read(request, held)
        finally:
            del self._bodies[held]
            self._total_held -= held.size

    async def _read(self, request: Request, held: _Held) -> bytes:
        try:
            async with asyncio.timeout(self._seconds) as held.timeout:
                return await self._collect(request, held)
        except TimeoutError as error:
            if held.evicted:
                raise _busy() from error
            raise SlowBodyError(f"the body did not arrive within {self._seconds:g} s") from error
        except ClientDisconnect as error:
            raise ReviewError("the client went away before it had sent the whole body") from error
        finally:
            held.timeout = None

    async def _collect(self, request: Request, held: _Held) -> bytes:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            held.size += len(chunk)
            self._total_held += len(chunk)
            if len(body) > self._limit:
                raise BodyTooLargeError
            if self._total_held > self._total:
                self._make_room(held)
        return bytes(body)

    def _make_room(self, newcomer: _Held) -> None:
        sizes: Counter[str] = Counter()
        for held in self._bodies:
            sizes[held.peer] += held.size
        unread = [held for held in self._bodies if held.timeout is not None and not held.evicted]
        # The newcomer is among them: where it is its own peer that holds most, it may be the one.
        victim = max(unread, key=lambda held: (sizes[held.peer], held.size))
        if victim is newcomer or victim.timeout is None:
            raise _busy()
        victim.evicted = True
        victim.timeout.reschedule(asyncio.get_running_loop().time())
        # Its memory goes with the next turn of the loop; it is no longer to be counted.
        self._total_held -= victim.size
        victim.size = 0


def _busy() -> BusyError:
    return BusyError("too many large requests at once; try again")
