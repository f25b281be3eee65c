"""How a process of the mesh runs: its server, what goes on beside, its metrics, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import structlog
from grpclib.server import Server
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from mesh.xds.listener import Listener
from process.background import Work, keep_running
from process.metrics_server import MetricsServer
from vocabulary.errors import MeshgraftError

Check = Callable[[], str | None]

_log = structlog.get_logger()


class ListenError(MeshgraftError):
    """An address cannot be listened on."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen; port 0 takes a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """HOST:PORT.

    Raises:
        ListenError: it is none.
    """
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdecimal() and int(port) < 65536 and host):
        raise ListenError(f"{text!r}: expected HOST:PORT, as in 0.0.0.0:8086")
    return Address(host.strip("[]"), int(port))


class _Exposed:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def expose(self, accept: str) -> tuple[bytes, str]:
        encoder, content_type = choose_encoder(accept)
        return encoder(self._registry), content_type


@dataclass(kw_only=True)
class Shell:
    """One process; `run` until SIGTERM or SIGINT."""

    registry: CollectorRegistry
    metrics_listen: Address | None
    server: Callable[[], Server] | None = None
    """Makes what it serves, if anything, once the loop runs."""
    listen: Address | None = None
    tls: ssl.SSLContext | None = None
    checks: Mapping[str, Check] = field(default_factory=dict)
    """What has to be well for it to be ready; None is well."""
    background: Mapping[str, Work] = field(default_factory=dict)
    drain_seconds: float = 0.0
    """How long it goes on after the signal to stop, already not ready."""
    at_end: Callable[[], Awaitable[None]] | None = None
    _draining: bool = False
    _server: Server | None = None

    def run(self) -> None:
        """Serve.

        Raises:
            ListenError: an address cannot be listened on.
        """
        asyncio.run(self._run())

    async def _run(self) -> None:
        loop, stopping = asyncio.get_running_loop(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        with contextlib.ExitStack() as stack:
            metrics = self._metrics(stack)
            listener = await self._serve()
            async with asyncio.TaskGroup() as tasks:
                beside = [
                    tasks.create_task(keep_running(name, work), name=name)
                    for name, work in self.background.items()
                ]
                address = listener.getsockname()[:2] if listener is not None else None
                _log.info("serving", address=address, metricsPort=metrics.port if metrics else None)
                await stopping.wait()
                self._draining = True
                _log.info("stopping", drainSeconds=self.drain_seconds)
                await asyncio.sleep(self.drain_seconds)
                for task in beside:
                    task.cancel()
            if self._server is not None and listener is not None:
                self._server.close()
                listener.end()
                await self._server.wait_closed()
            if self.at_end is not None:
                await self.at_end()
        _log.info("stopped")

    def _metrics(self, stack: contextlib.ExitStack) -> MetricsServer | None:
        where = self.metrics_listen
        if where is None:
            return None
        try:
            server = MetricsServer(
                where.host, where.port, _Exposed(self.registry), live=list, ready=self.problems
            )
        except OSError as error:
            raise ListenError(f"{where}: {error.strerror or error}") from error
        server.start()
        stack.callback(server.stop)
        return server

    def problems(self) -> list[str]:
        """Why it is not ready."""
        found = {name: check() for name, check in self.checks.items()}
        problems = [f"{name}: {problem}" for name, problem in found.items() if problem]
        return [*problems, *(["shutting down"] if self._draining else [])]

    async def _serve(self) -> Listener | None:
        if self.server is None or self.listen is None:
            return None
        family = socket.AF_INET6 if ":" in self.listen.host else socket.AF_INET
        try:
            sock = socket.create_server(
                (self.listen.host, self.listen.port), family=family, backlog=1024
            )
        except OSError as error:
            raise ListenError(f"{self.listen}: {error.strerror or error}") from error
        listener = Listener(sock)
        self._server = self.server()
        await self._server.start(sock=listener, ssl=self.tls)
        return listener
