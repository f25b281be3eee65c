"""A real webhook process for tests: its start, its log, its metrics."""

from __future__ import annotations

import asyncio
import http.client
import json
import queue
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from injector.service import server
from injector.service.connection_limit import ConnectionLimit
from injector.service.server import Address, bind, bound

DATA = Path(__file__).parents[1] / "data"
REVIEW = (DATA / "admission-reviews" / "pod-shop-web.json").read_bytes()
SECONDS = 20.0


@dataclass
class Running:
    """A ``meshgraft webhook`` process, and its log lines as they come."""

    process: subprocess.Popen[str]
    folder: Path
    lines: queue.Queue[dict[str, Any]] = field(default_factory=queue.Queue)
    address: Address = field(init=False)
    metrics_address: Address = field(init=False)

    def pump(self) -> None:
        """Take in its log."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.put(json.loads(line))

    def wait_for(self, message: str) -> dict[str, Any]:
        """The next log line with this message."""
        deadline = time.monotonic() + SECONDS
        while True:
            line = self.lines.get(timeout=max(0.0, deadline - time.monotonic()))
            if line["msg"] == message:
                return line

    def tls(self) -> ssl.SSLContext:
        """What a client trusts."""
        return ssl.create_default_context(cafile=str(self.folder / "ca.crt"))

    def https(self) -> http.client.HTTPSConnection:
        """A client of the webhook's port."""
        return http.client.HTTPSConnection(
            self.address.host, self.address.port, context=self.tls(), timeout=SECONDS
        )

    def get(self, path: str) -> tuple[int, str]:
        """Status and text of a page of the plain port."""
        plain = http.client.HTTPConnection(
            self.metrics_address.host, self.metrics_address.port, timeout=SECONDS
        )
        try:
            plain.request("GET", path)
            response = plain.getresponse()
            return response.status, response.read().decode()
        finally:
            plain.close()


def start_webhook(folder: Path, *flags: str) -> Running:
    """Start it; it need not be serving yet."""
    command = [sys.executable, "-m", "meshgraft", "webhook", *flags]
    command += ["--listen=127.0.0.1:0", "--metrics-listen=127.0.0.1:0", f"--cert-dir={folder}"]
    command += [f"--offline-objects={DATA / 'namespaces.json'}"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    running = Running(process, folder)
    threading.Thread(target=running.pump, daemon=True).start()
    return running


@asynccontextmanager
async def connected(
    app: FastAPI,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A plain connection to the app, which this very loop serves until the end of the block."""
    running = server._Server(app, ConnectionLimit(4))
    with bind(Address("127.0.0.1", 0)) as listener:
        address = bound(listener)
        async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as group:
            group.create_task(running.serve(sockets=[listener]))
            await running.accepting.wait()
            reader, writer = await asyncio.open_connection(address.host, address.port)
            yield reader, writer
            writer.close()
            await writer.wait_closed()
            running.should_exit = True
