"""Keeps one stream of incremental xDS to a server, for as long as it runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager

import structlog
from grpclib.client import Channel, Stream, StreamStreamMethod
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError

from mesh.xds.messages import METHOD, Request, Response
from mesh.xds.subscriptions import Subscriptions
from process.backoff import Backoff
from vocabulary.errors import MeshgraftError

_log = structlog.get_logger()

Connect = Callable[[], AbstractAsyncContextManager[tuple[Channel, Mapping[str, str]]]]
"""A channel with `mesh.xds.rpc.Codec`, and what goes with the call: a token, say."""

_FAILURES = (GRPCError, ProtocolError, StreamTerminatedError, MeshgraftError, OSError)


class Upstream:
    """The client: `run` connects, and connects again; `failure` says why it has no stream."""

    def __init__(
        self, subscriptions: Subscriptions, connect: Connect, longest: float = 5.0
    ) -> None:
        """``longest`` is how many seconds at most pass between two attempts."""
        self._subscriptions = subscriptions
        self._connect = connect
        self._backoff = Backoff(first=0.1, longest=longest)
        self._news = asyncio.Event()
        subscriptions.wake = self._news.set
        self.failure: str | None = "not connected yet"
        """None while there is a stream on which the server has answered, or owes no answer."""

    async def run(self) -> None:
        """For ever; what fails is logged once until it is well again."""
        while True:
            try:
                async with self._connect() as (channel, metadata):
                    await self._stream(channel, metadata)
                failure = "the server ended the stream"
            except* _FAILURES as errors:
                failure = _said(errors)
            seconds = self._backoff.next()
            log = _log.info if self.failure else _log.warning
            log("no xDS stream", error=failure, retrySeconds=round(seconds, 2))
            self.failure = failure
            await asyncio.sleep(seconds)

    async def _stream(self, channel: Channel, metadata: Mapping[str, str]) -> None:
        method = StreamStreamMethod(channel, METHOD, Request, Response)
        async with method.open(metadata=metadata) as stream:
            self._subscriptions.connected()
            await stream.send_request()
            async with asyncio.TaskGroup() as tasks:
                writer = tasks.create_task(self._write(stream))
                async for response in _responses(stream):
                    self._well()
                    self._subscriptions.receive(response)
                writer.cancel()

    def _well(self) -> None:
        self._backoff.reset()
        if self.failure is not None:
            self.failure = None
            _log.info("xDS stream established")

    async def _write(self, stream: Stream[Request, Response]) -> None:
        while True:
            self._news.clear()
            for request in self._subscriptions.requests():
                await stream.send_message(request)
            await self._news.wait()


async def _responses(stream: Stream[Request, Response]) -> AsyncIterator[Response]:
    while (response := await stream.recv_message()) is not None:
        yield response


def _said(errors: BaseExceptionGroup[BaseException]) -> str:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, GRPCError):
        return f"{error.status.name}: {error.message}"
    return str(error) or type(error).__name__
