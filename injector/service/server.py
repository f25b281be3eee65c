"""The process: TLS webhook and plain metrics in one event loop, from sockets to graceful end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import ssl
from asyncio.events import TimerHandle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httptools
import structlog
import uvicorn
import uvloop
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from injector.service.acceptor import Acceptor
from injector.service.connection_limit import ConnectionLimit, Place, Stage
from process.background import Work, keep_running
from process.health import Health
from vocabulary.errors import MeshgraftError

_log = structlog.get_logger()

HEADER_SECONDS = 15.0
"""From a request's first byte to the end of its headers; as Linkerd's ReadHeaderTimeout."""
KEEP_ALIVE_SECONDS = 120
"""Longer than the 90 s after which Go clients, the API server among them, give up an idle
connection: so it is always they who close it. Closed by us at the moment at which a review is
sent, it would lose that review, because Go does not repeat a POST."""
HEADER_BYTES = 64 * 1024
"""The most of a request before its body, trailers included; an API server sends 300 bytes."""
MAX_CONNECTIONS = 384
"""An API server keeps a few dozen; at more, whoever has most loses one for each new one."""
MAX_METRICS_CONNECTIONS = 64
"""Of the plain port: kubelet's probes, and those who scrape."""
CLOSE_SECONDS = 1.0
"""What an idle client gets, at the end, to confirm the close of its TLS connection."""
FINISH_SECONDS = 10
"""What reviews that are under way get to finish after the signal; the API server's time-out."""


class AddressError(MeshgraftError, ValueError):
    """Not an address to listen on; the text says which and what is expected."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen. Port 0 lets the kernel choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """``HOST:PORT``, ``[IPV6]:PORT``, or ``:PORT`` for all addresses.

    Raises:
        AddressError: something else.
    """
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not (colon and port.isascii() and port.isdecimal() and int(port) <= 65535):
        raise AddressError(f"{text!r} is not HOST:PORT with a port from 0 to 65535")
    if ":" in host and not bracketed:
        raise AddressError(f"{text!r}: write an IPv6 address in brackets, as in [::1]:8443")
    return Address(host[1:-1] if bracketed else host or "0.0.0.0", int(port))


def bind(address: Address) -> socket.socket:
    """A listening socket; ``::`` takes IPv4 too.

    Raises:
        AddressError: the address cannot be listened on (in use, not ours, not allowed).
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    everything = address.host == "::"
    try:
        return socket.create_server(
            (address.host, address.port), family=family, backlog=1024, dualstack_ipv6=everything
        )
    except OSError as error:
        raise AddressError(f"cannot listen on {address}: {error.strerror or error}") from error


def bound(listener: socket.socket) -> Address:
    """The address that the socket really has, with the port that the kernel chose."""
    host, port = listener.getsockname()[:2]
    return Address(host, port)


class _Protocol(HttpToolsProtocol):
    """HTTP/1.1 that gives up on clients that connect or begin a request, and then say no more;
    that send headers without end; or the next request before they have the answer to the last."""

    _header_timer: TimerHandle | None = None
    _header_bytes = 0
    _in_headers = False

    def __init__(self, limit: ConnectionLimit, place: Place, **given: Any) -> None:
        super().__init__(**given)
        self._limit, self._place = limit, place

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._limit.move(self._place, Stage.IDLE)
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def data_received(self, data: bytes) -> None:
        began_before = self._in_headers
        super().data_received(data)
        if self._in_headers:
            # At most one chunk is counted too little, the one in which the request began.
            self._header_bytes += len(data) if began_before else 0
            if self._header_bytes > HEADER_BYTES:
                self.transport.abort()

    def on_message_begin(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            # Each would be kept until its turn, some thousands from one chunk of data.
            raise httptools.HttpParserError("HTTP pipelining is not supported")
        super().on_message_begin()
        self._limit.move(self._place, Stage.RECEIVING)
        self._in_headers, self._header_bytes = True, 0
        self._header_timer = self.loop.call_later(HEADER_SECONDS, self.transport.close)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_headers:
            self._header_bytes += len(name) + len(value)  # trailers, which nobody reads
            if self._header_bytes > HEADER_BYTES:
                raise httptools.HttpParserError("too many trailers")
            return
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_headers = False
        self._stop_header_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        if not self.cycle.response_complete:  # a refusal does not wait for the rest of the body
            self._limit.move(self._place, Stage.ANSWERING)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self._limit.move(self._place, Stage.IDLE)
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._limit.leave(self._place)
        self._stop_header_timer()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        super().shutdown()
        if self.cycle is None or self.cycle.response_complete:
            # A client that does not read would hold up the end of the process for long.
            self.loop.call_later(CLOSE_SECONDS, self.transport.abort)

    def _stop_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None


class _Server(uvicorn.Server):
    """uvicorn's server as one of two in a loop: says when it accepts, leaves signals to us."""

    def __init__(
        self,
        app: FastAPI,
        limit: ConnectionLimit,
        tls: ssl.SSLContext | None = None,
        failed: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(_config(app))
        self.accepting = asyncio.Event()
        self._limit, self._tls, self._failed = limit, tls, failed

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.servers = [
            Acceptor(each, self._limit, self._protocol, self._tls, self._failed)  # type: ignore[misc]
            for each in sockets or ()
        ]
        self.started = True
        self.accepting.set()

    def _protocol(self, place: Place) -> _Protocol:
        return _Protocol(
            self._limit, place, config=self.config, server_state=self.server_state, app_state={}
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _config(app: FastAPI) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        # Nothing stands before us that could be trusted to tell who the client is.
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=FINISH_SECONDS,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """Everything that one webhook process runs."""

    webhook: FastAPI
    metrics: FastAPI
    tls: ssl.SSLContext
    health: Health
    listen: Address
    metrics_listen: Address
    drain_seconds: float
    """How long it goes on taking new reviews after the signal to stop, already not ready: until
    every node has taken this replica out of the Service."""
    connections: ConnectionLimit = field(default_factory=lambda: ConnectionLimit(MAX_CONNECTIONS))
    """Those of the webhook's port."""
    handshake_failed: Callable[[], None] = lambda: None
    """Hears of each connection that did not get through its TLS handshake."""
    background: Mapping[str, Work] = field(default_factory=dict)
    """What goes on beside, until the last review is answered; by the name that logs show."""

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT; a second one cuts the drain short.

        Raises:
            AddressError: one of the addresses cannot be listened on.
        """
        with (
            bind(self.listen) as webhook,
            bind(self.metrics_listen) as metrics,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            runner.run(self._serve(webhook, metrics))

    async def _serve(self, webhook_socket: socket.socket, metrics_socket: socket.socket) -> None:
        stopping = _on_signals()
        webhook = _Server(self.webhook, self.connections, self.tls, self.handshake_failed)
        metrics = _Server(self.metrics, ConnectionLimit(MAX_METRICS_CONNECTIONS))
        async with asyncio.TaskGroup() as group:
            beside = [
                group.create_task(keep_running(name, work))
                for name, work in self.background.items()
            ]
            group.create_task(metrics.serve(sockets=[metrics_socket]))
            answering = group.create_task(webhook.serve(sockets=[webhook_socket]))
            await webhook.accepting.wait()
            await metrics.accepting.wait()
            self.health.serving = True
            _log.info(
                "serving",
                address=str(bound(webhook_socket)),
                metricsAddress=str(bound(metrics_socket)),
            )
            await self._until_drained(stopping)
            webhook.should_exit = True
            await answering
            for task in beside:
                task.cancel()
            # Last, so that probes and scrapes see the end of it.
            metrics.should_exit = True
        _log.info("stopped")

    async def _until_drained(self, stopping: asyncio.Queue[int]) -> None:
        number = await stopping.get()
        self.health.draining = True
        name = signal.Signals(number).name
        _log.info("shutting down", signal=name, drainSeconds=self.drain_seconds)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.drain_seconds):
                await stopping.get()


def _on_signals() -> asyncio.Queue[int]:
    received: asyncio.Queue[int] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, received.put_nowait, number)
    return received
