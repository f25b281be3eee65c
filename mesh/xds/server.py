"""Serves incremental xDS over gRPC: each stream is a session, read from and written to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import structlog
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError
from grpclib.server import Server, Stream

from mesh.xds.messages import METHOD, MessageError, Request, Response
from mesh.xds.rpc import Codec
from mesh.xds.session import Refusal, Session
from mesh.xds.store import Source

_log = structlog.get_logger()

Metadata = Mapping[str, Any]
Opener = Callable[[Metadata], Awaitable[Source]]
"""Who the client is, by what came with its call, decides what it is served; raises GRPCError."""


class DeltaService:
    """The service, as grpclib takes it. It counts; whoever has metrics reads the counts."""

    def __init__(
        self,
        opener: Opener,
        on_refused: Callable[[Refusal], None] = lambda _: None,
        *,
        whole: bool = False,
    ) -> None:
        """``on_refused`` hears of each resource that a client would not take; ``whole`` is for
        clients that are relays."""
        self._whole = whole
        self._open = opener
        self._on_refused = on_refused
        self.streams = 0
        """That are open."""
        self.pushed = 0
        """Responses sent so far."""

    def __mapping__(self) -> dict[str, Handler]:
        """As grpclib asks for it."""
        return {METHOD: Handler(self._serve, Cardinality.STREAM_STREAM, Request, Response)}

    def server(self) -> Server:
        """A server of this service alone."""
        return Server([self], codec=Codec())

    async def _serve(self, stream: Stream[Request, Response]) -> None:
        source = await self._open(stream.metadata or {})
        news = asyncio.Event()
        session = Session(source, on_refused=self._on_refused, wake=news.set, whole=self._whole)
        self.streams += 1
        try:
            async with asyncio.TaskGroup() as tasks:
                writer = tasks.create_task(self._write(stream, session, news))
                await self._read(stream, session)
                writer.cancel()
        except* (StreamTerminatedError, ProtocolError, ConnectionError):
            pass  # The client has gone, in the middle of whatever we had to say.
        except* MessageError as errors:
            raise GRPCError(Status.INVALID_ARGUMENT, str(errors.exceptions[0])) from None
        finally:
            self.streams -= 1
            session.close()

    async def _read(self, stream: Stream[Request, Response], session: Session) -> None:
        async for request in stream:
            session.receive(request)

    async def _write(
        self, stream: Stream[Request, Response], session: Session, news: asyncio.Event
    ) -> None:
        while True:
            await news.wait()
            news.clear()
            for response in session.responses():
                self.pushed += 1
                await stream.send_message(response)
