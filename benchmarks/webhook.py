"""Reviews over keep-alive TLS: one webhook process, the recorded reviews in rotation."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe, milliseconds
from meshgraft.lab.process import Process

DATA = Path(__file__).parents[1] / "tests" / "data"


def main() -> None:
    """Run it and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each figure")
    arguments = parser.parse_args()
    table = Table("profile", "connections", "reviews/s", "p50 ms", "p99 ms", "RSS MiB")
    for profile in ("envoy", "linkerd"):
        with running(profile) as (process, address, trust):
            for connections in (1, 16):
                times, took = load(address, trust, connections, arguments.seconds)
                times.sort()
                table.add_row(
                    profile,
                    str(connections),
                    f"{len(times) / took:.0f}",
                    milliseconds(statistics.median(times)),
                    milliseconds(times[int(len(times) * 0.99)]),
                    f"{rss(process.pid):.0f}",
                )
    console = Console(width=120)
    console.print(describe("meshgraft", "fastapi", "uvicorn", "jsonpatch"))
    console.print("client and server share the processors")
    console.print(table)


@contextlib.contextmanager
def running(profile: str) -> Iterator[tuple[Process, tuple[str, int], ssl.SSLContext]]:
    """A webhook process on loopback, warmed up by the load itself."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        process = Process(
            "webhook",
            [
                *(sys.executable, "-m", "meshgraft", "webhook", "--profile", profile),
                *("--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"),
                *("--cert-dir", name, "--offline-objects", str(DATA / "namespaces.json")),
                *("--shutdown-delay", "0", "--log-level", "info"),
            ],
            folder / "log",
        )
        try:
            host, _, port = process.wait_for(lambda: _address(folder / "log"), "its address")
            trust = ssl.create_default_context(cafile=str(folder / "ca.crt"))
            yield process, (host, int(port)), trust
        finally:
            process.stop()


def _address(log: Path) -> tuple[str, str, str] | None:
    for line in log.read_text().splitlines():
        with contextlib.suppress(ValueError):
            record = json.loads(line)
            if record.get("msg") == "serving":
                address: tuple[str, str, str] = record["address"].rpartition(":")
                return address
    return None


def load(
    address: tuple[str, int], trust: ssl.SSLContext, connections: int, seconds: float
) -> tuple[list[float], float]:
    """As many reviews as can be had, on so many connections: the time of each, and the whole."""
    reviews = [path.read_bytes() for path in sorted((DATA / "admission-reviews").iterdir())]
    requests = [_request(body) for body in reviews]
    return asyncio.run(_load(address, trust, connections, seconds, requests))


def _request(body: bytes) -> bytes:
    head = (
        "POST /mutate?timeout=10s HTTP/1.1\r\nHost: webhook\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _load(
    address: tuple[str, int],
    trust: ssl.SSLContext,
    connections: int,
    seconds: float,
    requests: list[bytes],
) -> tuple[list[float], float]:
    times: list[float] = []
    stop = time.perf_counter() + seconds

    async def one(offset: int) -> None:
        reader, writer = await asyncio.open_connection(*address, ssl=trust)
        for request in itertools.islice(itertools.cycle(requests), offset, None):
            started = time.perf_counter()
            if started > stop:
                break
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200 "):
                raise RuntimeError(head.decode())
            length = next(
                int(line.split(b":")[1])
                for line in head.lower().split(b"\r\n")
                if line.startswith(b"content-length")
            )
            await reader.readexactly(length)
            times.append(time.perf_counter() - started)
        writer.close()
        await writer.wait_closed()

    started = time.perf_counter()
    await asyncio.gather(*(one(number) for number in range(connections)))
    return times, time.perf_counter() - started


def rss(pid: int) -> float:
    """Resident memory of a process, in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    main()
