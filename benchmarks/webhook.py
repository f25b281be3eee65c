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
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe, milliseconds
from meshgraft.lab.process import Process

DATA = Path(__file__).parents[1] / "tests" / "data"


def main() -> None:
    """Run it and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each figure")
    parser.add_argument(
        "--memory", action="store_true", help="instead: 100,000 reviews over 20,000 namespaces"
    )
    arguments = parser.parse_args()
    console = Console(width=120)
    console.print(describe("meshgraft", "fastapi", "uvicorn", "jsonpatch"))
    console.print("client and server share the processors")
    console.print(memory() if arguments.memory else speed(arguments.seconds))


def speed(seconds: float) -> Table:
    """As fast as can be on 1 and 16 connections, and then on 16 at half of that rate."""
    table = Table("profile", "connections", "asked/s", "reviews/s", "p50 ms", "p99 ms", "RSS MiB")
    for profile in ("envoy", "linkerd"):
        with running(profile, DATA / "namespaces.json") as server:
            bodies = recorded()
            rate = 0.0
            for connections, share in ((1, 0.0), (16, 0.0), (16, 0.5)):
                asked = rate * share
                times, took = load(server, bodies, connections, seconds, asked)
                rate = len(times) / took
                times.sort()
                table.add_row(
                    profile,
                    str(connections),
                    f"{asked:.0f}" if asked else "all",
                    f"{rate:.0f}",
                    milliseconds(statistics.median(times)),
                    milliseconds(times[int(len(times) * 0.99)]),
                    f"{rss(server.process.pid):.0f}",
                )
    return table


def memory(namespaces: int = 20_000, reviews: int = 100_000) -> Table:
    """Resident memory while every namespace is met in turn, five times over."""
    table = Table("reviews", "namespaces met", "RSS MiB")
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "namespaces.json"
        path.write_text(
            json.dumps({"kind": "List", "items": [_namespace(n) for n in range(namespaces)]})
        )
        template = (DATA / "admission-reviews" / "pod-shop-web.json").read_text()
        with running("envoy", path) as server:
            table.add_row("0", "0", f"{rss(server.process.pid):.0f}")
            part = reviews // 10
            for number in range(10):
                met = [(number * part + n) % namespaces for n in range(part)]
                bodies = [template.replace('"shop"', f'"ns-{n}"').encode() for n in met]
                load(server, bodies, 16, float("inf"), 0.0, once=True)
                table.add_row(
                    str((number + 1) * part),
                    str(min((number + 1) * part, namespaces)),
                    f"{rss(server.process.pid):.0f}",
                )
    return table


def _namespace(number: int) -> dict[str, object]:
    annotations = {"linkerd.io/inject": "enabled", "config.linkerd.io/proxy-log-level": "info"}
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": f"ns-{number}", "annotations": annotations},
    }


def recorded() -> list[bytes]:
    """The recorded reviews, in rotation."""
    return [path.read_bytes() for path in sorted((DATA / "admission-reviews").iterdir())]


@dataclass(frozen=True, slots=True)
class Server:
    """A webhook process on loopback."""

    process: Process
    address: tuple[str, int]
    trust: ssl.SSLContext


@contextlib.contextmanager
def running(profile: str, objects: Path) -> Iterator[Server]:
    """Start it, with these objects in place of an API server."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        process = Process(
            "webhook",
            [
                *(sys.executable, "-m", "meshgraft", "webhook", "--profile", profile),
                *("--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"),
                *("--cert-dir", name, "--offline-objects", str(objects)),
                *("--shutdown-delay", "0"),
            ],
            folder / "log",
        )
        try:
            host, _, port = process.wait_for(lambda: _address(folder / "log"), "its address", 60)
            trust = ssl.create_default_context(cafile=str(folder / "ca.crt"))
            yield Server(process, (host, int(port)), trust)
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
    server: Server,
    bodies: list[bytes],
    connections: int,
    seconds: float,
    rate: float,
    *,
    once: bool = False,
) -> tuple[list[float], float]:
    """Reviews on so many connections: the time of each, and of the whole, in seconds.

    ``rate`` reviews are begun each second, whether or not those before were answered in time
    (what waits for a connection counts as waiting); 0 is as fast as answers come.
    """
    requests = [_request(body) for body in bodies]
    return asyncio.run(_load(server, requests, connections, seconds, rate, once))


def _request(body: bytes) -> bytes:
    head = (
        "POST /mutate?timeout=10s HTTP/1.1\r\nHost: webhook\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _load(
    server: Server,
    requests: list[bytes],
    connections: int,
    seconds: float,
    rate: float,
    once: bool,
) -> tuple[list[float], float]:
    times: list[float] = []
    begun = time.perf_counter()
    # Due times and requests, shared by all connections: whoever is free takes the next.
    work = enumerate(requests if once else itertools.cycle(requests))

    async def one() -> None:
        reader, writer = await asyncio.open_connection(*server.address, ssl=server.trust)
        for number, request in work:
            due = begun + number / rate if rate else time.perf_counter()
            if due > begun + seconds:
                break
            await asyncio.sleep(max(0.0, due - time.perf_counter()) if rate else 0)
            await _ask(reader, writer, request)
            times.append(time.perf_counter() - due)
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(one() for _ in range(connections)))
    return times, time.perf_counter() - begun


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> None:
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        raise RuntimeError(head.decode())
    lines = head.lower().split(b"\r\n")
    length = next(int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length"))
    await reader.readexactly(length)


def rss(pid: int) -> float:
    """Resident memory of a process, in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    main()
