"""What control costs: a cluster in memory, translation, and pushes to many nodes over real gRPC.

    python -m benchmarks.mesh_control [NODES] [SERVICES]

Control's part runs in this process, over loopback; the nodes are streams of another.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import socket
import statistics
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

from grpclib.client import Channel, StreamStreamMethod
from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe
from mesh.control.catalog import Catalog
from mesh.model.values import Endpoint, EndpointSlice, Ref, Service, ServicePort, Workload
from mesh.model.world import World
from mesh.translate.types import CLUSTER, ENDPOINTS
from mesh.xds.listener import Listener
from mesh.xds.messages import METHOD, Request, Response
from mesh.xds.rpc import Codec
from mesh.xds.server import DeltaService
from mesh.xds.store import Source

ENDPOINTS_EACH = 10
PORT = (ServicePort("http", 8080),)
CHANGES = 30


def resident() -> float:
    """Of this process, in MiB."""
    with open("/proc/self/statm") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def address(number: int, prefix: str) -> str:
    return f"{prefix}.{number >> 8 & 255}.{number & 255}"


def slice_of(number: int, count: int, *, flip: int = -1) -> EndpointSlice:
    """A Service's endpoints; ``flip`` makes another one of them unready."""
    held = tuple(
        Endpoint(f"100.{64 + number * 16 // 65536}.{number * 16 >> 8 & 255}.{each}", each != flip)
        for each in range(count)
    )
    return EndpointSlice(Ref("shop", f"s{number}-x"), f"s{number}", PORT, held)


def fill(world: World, services: int) -> None:
    """Services with their endpoints, each a meshed pod."""
    for number in range(services):
        ref = Ref("shop", f"s{number}")
        world.put_service(ref, Service(ref, (address(number, "10.96"),), PORT))
        held = slice_of(number, ENDPOINTS_EACH)
        world.put_slice(held.ref, held)
        for index, endpoint in enumerate(held.endpoints):
            pod = Ref("shop", f"s{number}-{index}")
            uid, node = f"u{number}-{index}", f"n{index}"
            owner = f"deployment/s{number}"
            made = Workload(pod, uid, node, f"s{number}", (endpoint.address,), True, owner)
            world.put_workload(pod, made)


class Nobody:
    """A watcher that does nothing."""

    def notify(self, key: object) -> None:
        """Nothing."""


def nodes(port: int, count: int, names: list[str], pipe: Connection) -> None:
    """The other process: streams that take everything, and say when a change has reached all."""
    asyncio.run(_nodes(port, count, names, pipe))


async def _nodes(port: int, count: int, names: list[str], pipe: Connection) -> None:
    arrived = asyncio.Queue[float]()

    async def node() -> None:
        channel = Channel("127.0.0.1", port, codec=Codec())
        method = StreamStreamMethod(channel, METHOD, Request, Response)
        async with method.open() as stream:
            await stream.send_message(Request(type_url=CLUSTER, subscribe=tuple(names)))
            await stream.send_message(
                Request(
                    type_url=ENDPOINTS,
                    subscribe=tuple(f"shop/s{n}:8080" for n in range(len(names))),
                )
            )
            while (response := await stream.recv_message()) is not None:
                await stream.send_message(Request(type_url=response.type_url, nonce=response.nonce))
                if response.type_url == ENDPOINTS:
                    arrived.put_nowait(time.perf_counter())

    tasks = [asyncio.create_task(node()) for _ in range(count)]
    last = 0.0
    # Everybody has everything once nothing has come for a while.
    with contextlib.suppress(TimeoutError):
        while True:
            async with asyncio.timeout(3 if last else 60):
                last = await arrived.get()
    while True:
        pipe.send(last)
        if await asyncio.to_thread(pipe.recv) == "end":
            break
        for _ in range(count):
            last = await arrived.get()
    for task in tasks:
        task.cancel()


def rows(count: int, services: int) -> Iterator[tuple[str, str]]:
    """What is measured, and the figure."""
    before = resident()
    world = World()
    started = time.perf_counter()
    fill(world, services)
    total = f"{services} Services of {ENDPOINTS_EACH} meshed endpoints"
    yield f"{total}, in memory", f"{resident() - before:.0f} MiB"
    yield f"{total}, taken in", f"{time.perf_counter() - started:.2f} s"
    catalog = Catalog(world, "cluster.local", lambda _: "")
    before, started, nobody = resident(), time.perf_counter(), Nobody()
    view = catalog.view("n0")
    for number in range(services):
        for key in _keys(number):
            view.subscribe(key, nobody)
    yield f"{total}, all translated", f"{time.perf_counter() - started:.2f} s"
    yield f"{total}, all wanted by somebody", f"{resident() - before:.0f} MiB more"
    yield from asyncio.run(_pushes(catalog, world, count))


def _keys(number: int) -> Iterator[Any]:
    from mesh.xds.messages import Key

    yield Key(CLUSTER, f"{address(number, '10.96')}:8080")
    yield Key(ENDPOINTS, f"shop/s{number}:8080")


async def _pushes(catalog: Catalog, world: World, count: int) -> list[tuple[str, str]]:
    async def opened(_: object) -> Source:
        return catalog.view("n0")

    service = DeltaService(opened, whole=True)
    server = service.server()
    listener = Listener(socket.create_server(("127.0.0.1", 0), backlog=4096))
    await server.start(sock=listener)
    names = [f"{address(number, '10.96')}:8080" for number in range(50)]
    ours, theirs = multiprocessing.Pipe()
    before = resident()
    port = listener.getsockname()[1]
    other = multiprocessing.get_context("spawn").Process(
        target=nodes, args=(port, count, names, theirs)
    )
    other.start()
    await asyncio.to_thread(ours.recv)
    streams = resident() - before
    times, cpu = [], time.process_time()
    for turn in range(CHANGES):
        changed = slice_of(turn % 50, ENDPOINTS_EACH, flip=turn % ENDPOINTS_EACH)
        ours.send("go")
        started = time.perf_counter()
        catalog.apply(world.put_slice(changed.ref, changed))
        times.append(await asyncio.to_thread(ours.recv) - started)
    spent = time.process_time() - cpu
    ours.send("end")
    server.close()
    listener.end()
    await asyncio.to_thread(other.join)
    per = f"{count} nodes, each with 50 Services in use"
    return [
        (f"{per}: a stream", f"{streams * 1024 / count:.0f} KiB"),
        (f"{per}: CPU of a push and its ACK", f"{spent / CHANGES / count * 1e6:.0f} µs"),
        (f"{per}: a change is with the last", f"{statistics.median(times) * 1000:.0f} ms"),
    ]


def main() -> None:
    """Run it and print the table."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    services = int(sys.argv[2]) if len(sys.argv) > 2 else 5000
    table = Table("what", "figure", title="control")
    for what, figure in rows(count, services):
        table.add_row(what, figure)
    console = Console()
    console.print(table)
    console.print(describe("grpclib", "protobuf", "xds-protos"))


if __name__ == "__main__":
    main()
