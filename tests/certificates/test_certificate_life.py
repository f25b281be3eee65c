"""A whole life of the replicas' own certificates under TLS load: no client is ever turned away.

Three replicas with clocks that differ run in one loop, on the fake API server, with a clock that
runs an hour in two thirds of a second. Clients connect all the time, and check what they are shown
against every caBundle that an API server may go by at that moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from certificates import lease as lease_module
from certificates.authority import Policy, parse_bundle
from certificates.ca_bundle import bundles
from certificates.keeper import Clock
from certificates.live import LiveCertificate
from certificates.replica import work_of_replica
from injector.service.metrics import Metrics
from kubeapi.client import ApiServer
from kubeapi.config import load_config
from process.background import keep_running
from tests.injector.cert_support import (
    HOOKS,
    KEPT,
    NOW,
    SECRET,
    SERVICE,
    Follower,
    accepts,
    configuration,
)
from tests.kubeapi.fake_apiserver import until
from tests.kubeapi.keeping_apiserver import KeepingApiServer, keeping

PACE = 5400.0
"""Seconds of theirs in one of ours."""
HOUR = timedelta(hours=1)
POLICY = Policy(
    sans=(SERVICE,), leaf=4 * HOUR, authority=12 * HOUR, propagation=HOUR / 2, look=HOUR / 5
)
DELAY = POLICY.propagation.total_seconds() / PACE / 2
"""Seconds after which the clients have certainly heard of a caBundle."""


def virtual(skew: timedelta = timedelta()) -> datetime:
    """The time in this test."""
    return NOW + skew + timedelta(seconds=time.monotonic() * PACE)


@dataclass
class Replica:
    """One process's part: what it runs, and a TLS server that shows its certificate."""

    name: str
    live: LiveCertificate
    tasks: list[asyncio.Task[None]]
    server: asyncio.Server

    @property
    def port(self) -> int:
        port: int = self.server.sockets[0].getsockname()[1]
        return port

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.wait(self.tasks)
        self.server.close()


async def start(api: ApiServer, name: str, skew: timedelta) -> Replica:
    live = LiveCertificate(clock=lambda: virtual(skew))
    clock = Clock(now=lambda: virtual(skew), steady=lambda: time.monotonic() * PACE, pace=PACE)
    work = work_of_replica(api, KEPT, POLICY, live, Metrics("test"), name=name, clock=clock)
    tasks = [asyncio.create_task(keep_running(*each)) for each in work.items()]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=live.context)
    return Replica(name, live, tasks, server)


@dataclass
class Clients:
    """API servers that call without a pause, whichever replica is ready."""

    replicas: list[Replica]
    follower: Follower = field(default_factory=lambda: Follower(DELAY, []))
    calls: int = 0
    failures: list[str] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)
    """Serial numbers of the certificates that were shown."""

    async def call_for_ever(self) -> None:
        trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        trust.check_hostname = False
        trust.verify_mode = ssl.CERT_NONE  # by the test's own clock: see `_accepted`
        while True:
            ready = [one for one in self.replicas if one.live.problem() is None]
            for replica in ready:
                try:
                    await self._call(replica, trust)
                except OSError as error:
                    self.failures.append(f"{replica.name}: {error!r}")
                self.calls += 1
            await asyncio.sleep(0.01)

    async def _call(self, replica: Replica, trust: ssl.SSLContext) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", replica.port, ssl=trust)
        try:
            der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            self._judge(replica, x509.load_der_x509_certificate(der))
            writer.write(b"ping\n")
            if await reader.readline() != b"ping\n":
                self.failures.append(f"{replica.name}: no answer")
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _judge(self, replica: Replica, shown: x509.Certificate) -> None:
        self.seen.add(shown.serial_number)
        for bundle in self.follower.possible(time.monotonic()):
            if not accepts(bundle, shown, virtual()):
                count = bundle.count(b"BEGIN")
                self.failures.append(f"{replica.name}: not accepted by a bundle of {count}")


@dataclass
class Life:
    """Everything at once."""

    server: KeepingApiServer
    api: ApiServer
    clients: Clients

    def authorities(self) -> int:
        """How many there have been."""
        written = self.clients.follower.written
        return len({one for _, bundle in written for one in parse_bundle(bundle)})

    def written_from_now_on(self) -> Callable[[], list[int]]:
        """How many CAs each bundle holds that is written after this; what stands there now may be
        gone again before a slow machine looks."""
        written = self.clients.follower.written
        begin = len(written)
        return lambda: [len(parse_bundle(bundle)) for _, bundle in written[begin:]]

    async def is_renewed(self) -> None:
        before = len(self.clients.seen)
        await until(lambda: len(self.clients.seen) > before)


@contextlib.asynccontextmanager
async def life(folder: Path) -> AsyncIterator[Life]:
    async with asyncio.timeout(60), keeping() as server:
        clients = Clients([])
        server.on_change = _follow(clients)
        server.change(HOOKS, configuration())
        api = ApiServer(load_config(server.kubeconfig(folder)))
        clients.replicas += [
            await start(api, f"pod-{number}", number * HOUR / 4) for number in (-1, 0, 1)
        ]
        load = [asyncio.create_task(clients.call_for_ever()) for _ in range(2)]
        try:
            yield Life(server, api, clients)
        finally:
            for task in load:
                task.cancel()
            await asyncio.wait(load)
            for replica in clients.replicas:
                await replica.stop()
            await api.close()


def _follow(clients: Clients) -> Callable[[str, object], None]:
    def changed(path: str, obj: object) -> None:
        if path == HOOKS and isinstance(obj, dict) and (bundle := bundles(obj)[0]):
            clients.follower.note(bundle, time.monotonic())

    return changed


def test_no_client_is_turned_away_in_a_whole_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "RENEW_SECONDS", 0.1)
    monkeypatch.setattr(lease_module, "DURATION_SECONDS", 1)
    random.seed(0)

    async def test() -> None:
        async with life(tmp_path) as given:
            clients, server = given.clients, given.server
            await until(lambda: all(each.live.problem() is None for each in clients.replicas))
            assert (
                len({each.live.current.pair for each in clients.replicas if each.live.current}) == 1
            )
            await given.is_renewed()

            server.change(SECRET, None)
            await until(lambda: given.authorities() >= 2)
            await given.is_renewed()

            # The one that holds the Lease ends, and a new one begins.
            holder = server.kept[f"/{KEPT.lease.path}"]["spec"]["holderIdentity"]  # type: ignore[union-attr]
            [old] = [each for each in clients.replicas if each.name == holder]
            clients.replicas.remove(old)
            await old.stop()
            clients.replicas.append(await start(given.api, "pod-new", timedelta()))
            await given.is_renewed()

            await server.stop()
            calls = clients.calls
            await until(lambda: clients.calls > calls + 20)
            await server.start()

            # What the lost CA signed has expired; and then the next one gets old in its turn.
            written = given.written_from_now_on()
            await until(lambda: 1 in written(), seconds=20)
            await until(lambda: 2 in written()[written().index(1) :], seconds=20)
            await given.is_renewed()
            assert given.authorities() >= 3
            assert clients.failures == []
            assert clients.calls > 100  # however slow the machine is
            made = [
                each for each in server.asked if each.method == "POST" and "secrets" in each.path
            ]
            assert len(made) == 2  # at first, and when it was lost

    asyncio.run(test())
