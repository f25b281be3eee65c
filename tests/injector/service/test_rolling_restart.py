"""A rolling restart under load: three replicas are replaced one by one, and no review is lost.

The replicas are processes with certificates of their own making, on the fake API server. Before
them stands what a Service is: it follows readiness, with the delay of endpoints and kube-proxy, for
new connections only. The clients are as the API server: they keep connections, give up one that is
closed before they write, and repeat nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import ssl
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from certificates.ca_bundle import bundles
from injector.service.server import Address, parse_address
from tests.injector.cert_support import HOOKS, LEASE, SECRET, SERVICE, configuration
from tests.injector.support import pod
from tests.kubeapi.fake_apiserver import until
from tests.kubeapi.keeping_apiserver import KeepingApiServer, keeping

SECONDS = 30
REPLICAS = 3
SHUTDOWN_DELAY = 1.0
SERVICE_DELAY = 0.4
"""How long a Service goes on sending new connections to a replica that is not ready any more."""
REVIEW = json.dumps(
    {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "u",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "namespace": "shop",
            "operation": "CREATE",
            "object": pod(),
        },
    }
).encode()


@dataclass
class Replica:
    """One process, as the kubelet sees it."""

    process: asyncio.subprocess.Process
    name: str
    lines: list[dict[str, Any]] = field(default_factory=list)
    ready: bool = False

    async def pump(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.lines.append(json.loads(line))

    def address(self, key: str = "address") -> Address | None:
        serving = [line for line in self.lines if line["msg"] == "serving"]
        return parse_address(serving[0][key]) if serving else None

    async def probe(self) -> None:
        """Ask for readiness again and again."""
        async with httpx.AsyncClient() as client:
            while True:
                address, ready = self.address("metricsAddress"), False
                with contextlib.suppress(httpx.TransportError):
                    if address is not None:
                        ready = (await client.get(f"http://{address}/ready")).status_code == 200
                self.ready = ready
                await asyncio.sleep(0.05)


@dataclass
class Service:
    """Sends each new connection to a replica that is ready, or was a moment ago."""

    replicas: list[Replica] = field(default_factory=list)
    port: int = 0
    _seen_ready: dict[str, float] = field(default_factory=dict)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def endpoints(self) -> list[Replica]:
        now = time.monotonic()
        self._seen_ready.update({one.name: now for one in self.replicas if one.ready})
        return [
            one
            for one in self.replicas
            if now - self._seen_ready.get(one.name, -SERVICE_DELAY) < SERVICE_DELAY
        ]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await self._forward(reader, writer)
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address = random.choice(self.endpoints()).address()
        assert address is not None
        there = await asyncio.open_connection(address.host, address.port)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_pipe(reader, there[1]))
                group.create_task(_pipe(there[0], writer))
        finally:
            there[1].transport.abort()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while content := await reader.read(65536):
            writer.write(content)
            await writer.drain()
        writer.write_eof()


@dataclass
class Client:
    """One of the API server's connections: kept while it is good, nothing is sent twice."""

    service: Service
    server: KeepingApiServer
    pause: float
    answered: int = 0
    lost: list[str] = field(default_factory=list)
    connections: int = 0
    hung_up_on: int = 0
    """Connections that the server closed without having said so with an answer."""
    _reader: asyncio.StreamReader | None = None
    _writer: asyncio.StreamWriter | None = None

    async def call_for_ever(self) -> None:
        try:
            while True:
                try:
                    await self._call()
                    self.answered += 1
                except (OSError, EOFError, AssertionError) as error:
                    self.lost.append(repr(error))
                    self._drop()
                await asyncio.sleep(self.pause * random.uniform(0.5, 1.5))
        finally:
            self._drop()

    def _drop(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()
        self._reader = self._writer = None

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._reader is None or self._reader.at_eof():
            self.hung_up_on += self._reader is not None
            self._drop()
            trust = ssl.create_default_context(cadata=bundles(self.server.kept[HOOKS])[0].decode())
            self._reader, self._writer = await asyncio.open_connection(
                "127.0.0.1", self.service.port, ssl=trust, server_hostname=SERVICE
            )
            self.connections += 1
        assert self._writer is not None
        return self._reader, self._writer

    async def _call(self) -> None:
        reader, writer = await self._connection()
        head = f"POST /?timeout=10s HTTP/1.1\r\nHost: x\r\nContent-Length: {len(REVIEW)}\r\n\r\n"
        writer.write(head.encode() + REVIEW)
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().splitlines()
        headers = dict(line.split(": ", 1) for line in lines[1:] if line)
        body = json.loads(await reader.readexactly(int(headers["content-length"])))
        assert lines[0].split()[1] == "200", lines[0]
        assert body["response"]["patchType"] == "JSONPatch"
        if headers.get("connection") == "close":
            self._drop()


@dataclass
class Deployment:
    """Starts and replaces replicas, one at a time."""

    folder: Path
    kubeconfig: Path
    service: Service
    _started: int = 0
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _processes: list[asyncio.subprocess.Process] = field(default_factory=list)

    async def start(self) -> Replica:
        self._started += 1
        name = f"meshgraft-injector-{self._started}"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "meshgraft", "webhook", f"--kubeconfig={self.kubeconfig}"),
            *("--cert-secret=meshgraft/certs", "--webhook-config=hooks"),
            *("--cert-lease=meshgraft/lease", f"--shutdown-delay={SHUTDOWN_DELAY}"),
            *("--listen=127.0.0.1:0", "--metrics-listen=127.0.0.1:0"),
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "POD_NAME": name, "POD_NAMESPACE": "meshgraft"},
        )
        self._processes.append(process)
        replica = Replica(process, name)
        self._tasks += [asyncio.create_task(one) for one in (replica.pump(), replica.probe())]
        self.service.replicas.append(replica)
        return replica

    async def replace(self, old: Replica) -> None:
        """As a rolling update with maxUnavailable 1."""
        old.process.send_signal(signal.SIGTERM)
        new = await self.start()
        async with asyncio.timeout(SECONDS):
            assert await old.process.wait() == 0
        await until(lambda: new.ready, SECONDS)
        self.service.replicas.remove(old)

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        for process in self._processes:
            if process.returncode is None:
                process.kill()
            await process.wait()
        await asyncio.wait(self._tasks)


@dataclass
class Load:
    """Busy clients, and some that keep their connections idle for long."""

    clients: list[Client]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(each.call_for_ever()) for each in self.clients]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    @property
    def answered(self) -> int:
        return sum(each.answered for each in self.clients)

    @property
    def lost(self) -> list[str]:
        return [text for each in self.clients for text in each.lost]


@contextlib.asynccontextmanager
async def cluster(folder: Path) -> AsyncIterator[tuple[KeepingApiServer, Deployment]]:
    async with asyncio.timeout(3 * SECONDS), keeping() as server:
        server.put("shop", **{"linkerd.io__inject": "enabled"})
        server.change(HOOKS, configuration())
        service = Service()
        deployment = Deployment(folder, server.kubeconfig(folder), service)
        async with service.running():
            try:
                yield server, deployment
            finally:
                await deployment.end()


@pytest.mark.timeout(180)
def test_a_rolling_restart_loses_no_review(tmp_path: Path) -> None:
    async def test() -> None:
        async with cluster(tmp_path) as (server, deployment):
            service = deployment.service
            replicas = [await deployment.start() for _ in range(REPLICAS)]
            await until(lambda: all(each.ready for each in replicas), SECONDS)
            secret, hooks = server.kept[SECRET], server.kept[HOOKS]
            busy = [Client(service, server, pause=0.01) for _ in range(4)]
            idle = [Client(service, server, pause=0.7) for _ in range(6)]
            load = Load(busy + idle)
            async with load.running():
                for old in replicas:
                    await deployment.replace(old)
                after = load.answered
                # An idle client notices that its connection went only when it needs it again.
                await until(lambda: all(each.connections > 1 for each in load.clients), SECONDS)
                await until(lambda: load.answered > after + 50, SECONDS)
            assert load.lost == []
            assert load.answered > 200
            # Closing a connection that is in use risks a review: whoever used it was asked to go.
            assert sum(each.hung_up_on for each in busy) == 0
            assert not {each.name for each in service.replicas} & {each.name for each in replicas}
            # Nothing was made anew: what the first replica made serves them all.
            assert (server.kept[SECRET], server.kept[HOOKS]) == (secret, hooks)
            holder = server.kept[LEASE]["spec"]["holderIdentity"]
            assert holder not in {each.name for each in replicas}

    asyncio.run(test())
