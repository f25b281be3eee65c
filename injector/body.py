"""Request bodies, read with bounds: on one body's length, on its time, and on all at once."""

from __future__ import annotations

import asyncio

from fastapi import Request
from starlette.requests import ClientDisconnect

from injector.review import MAX_BODY_BYTES, BodyTooLargeError, ReviewError

BODY_SECONDS = 10.0
"""Longer than this the API server does not wait for a whole review by default."""
TOTAL_BYTES = 64 * 1024 * 1024
"""What all bodies together may hold: six of the largest, or thousands as they are."""


class SlowBodyError(ReviewError):
    """The body did not arrive in time."""

    status = 408
    cause = "timeout"


class BusyError(ReviewError):
    """Other requests hold all the memory there is for bodies."""

    status = 503
    cause = "busy"


class BodyReader:
    """Reads bodies and keeps count, so that no number of clients can exhaust the memory."""

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
        self._held = 0

    async def read(self, request: Request) -> bytes:
        """The whole body.

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
        try:
            async with asyncio.timeout(self._seconds):
                return await self._collect(request)
        except TimeoutError as error:
            raise SlowBodyError(f"the body did not arrive within {self._seconds:g} s") from error
        except ClientDisconnect as error:
            raise ReviewError("the client went away before it had sent the whole body") from error

    async def _collect(self, request: Request) -> bytes:
        body = bytearray()
        try:
            async for chunk in request.stream():
                body += chunk
                self._held += len(chunk)
                if len(body) > self._limit:
                    raise BodyTooLargeError
                if self._held > self._total:
                    raise BusyError("too many large requests at once; try again")
            return bytes(body)
        finally:
            self._held -= len(body)
