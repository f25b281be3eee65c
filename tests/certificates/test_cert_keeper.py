"""The keeper on an API server: who writes, what is refused, and what is said about it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from structlog.testing import capture_logs

from certificates.authority import Policy
from certificates.ca_bundle import bundles
from certificates.keeper import CONFLICT_SECONDS, Clock, Keeper, Kept
from certificates.live import LiveCertificate
from certificates.metrics import CertMetrics
from certificates.replica import identity, work_of_replica
from certificates.secret import read_held, write_held
from certificates.x509 import BACKDATED, CertificateError
from injector.service.metrics import Metrics
from kubeapi.client import ApiServer, ApiServerError
from kubeapi.config import load_config
from process.background import keep_running
from tests.injector.cert_support import HOOKS, KEPT, NOW, SECRET, SERVICE, accepts, configuration
from tests.kubeapi.fake_apiserver import Asked, Fault, until
from tests.kubeapi.keeping_apiserver import KeepingApiServer, keeping

POLICY = Policy(sans=(SERVICE,))


@pytest.fixture(autouse=True)
def logged() -> Iterator[list[Any]]:
    structlog.reset_defaults()
    with capture_logs() as lines:
        yield lines


@dataclass
class Cluster:
    """An API server with a webhook configuration, and replicas whose time stands still."""

    server: KeepingApiServer
    api: ApiServer
    now: datetime = NOW
    seconds: float = 0.0

    def replica(self, *, acts: bool = True) -> Replica:
        return Replica(self, acts)

    @property
    def bundles(self) -> tuple[bytes, ...]:
        return bundles(self.server.kept.get(HOOKS))

    def writes(self) -> list[tuple[str, str]]:
        return [(each.method, each.path) for each in self.server.asked if each.method != "GET"]

    def refuse(self, status: int, match: Callable[[Asked], bool]) -> Fault:
        self.server.faults.append(Fault(match, status=status, times=99))
        return self.server.faults[-1]


@dataclass
class Replica:
    """A keeper, and what it shows."""

    cluster: Cluster
    acts: bool
    metrics: Metrics = field(default_factory=lambda: Metrics("test"))

    def __post_init__(self) -> None:
        at = self.cluster
        self.live = LiveCertificate(clock=lambda: at.now)
        self.keeper = Keeper(
            at.api,
            KEPT,
            POLICY,
            self.live,
            may_act=lambda: self.acts,
            metrics=self.metrics,
            cert_metrics=CertMetrics(self.metrics.registry),
            clock=Clock(now=lambda: at.now, steady=lambda: at.seconds),
        )

    async def settle(self) -> None:
        """Look until nothing is left to do."""
        for _ in range(9):
            if await self.keeper.look() > CONFLICT_SECONDS:
                return
        raise AssertionError("there is no end to it")

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"proxy_inject_{name}", labels)


@contextlib.asynccontextmanager
async def cluster(folder: Path) -> AsyncIterator[Cluster]:
    async with asyncio.timeout(20), keeping() as server:
        server.change(HOOKS, configuration())
        api = ApiServer(load_config(server.kubeconfig(folder)))
        try:
            yield Cluster(server, api)
        finally:
            await api.close()


def run(folder: Path, test: Callable[[Cluster], Any]) -> None:
    """A test on a cluster of its own."""

    async def whole() -> None:
        async with cluster(folder) as given:
            await test(given)

    asyncio.run(whole())


def test_the_first_start_makes_everything_and_the_second_nothing(tmp_path: Path) -> None:
    async def test(given: Cluster) -> None:
        first, second = given.replica(), given.replica()
        assert "waiting for secrets meshgraft/certs" in (first.live.problem() or "")
        await first.settle()
        assert [method for method, _ in given.writes()] == ["POST", "PUT", "PUT"]
        written = given.writes()
        await second.settle()
        assert given.writes() == written
        for replica in (first, second):
            shown = replica.live.current
            assert shown is not None
            assert replica.live.problem() is None
            assert all(accepts(bundle, shown.certificate, NOW) for bundle in given.bundles)
            assert (
                replica.value("ca_expiry_timestamp_seconds") == (NOW + POLICY.authority).timestamp()
            )
        assert first.value("certificate_writes_total", what="ca") == 1
        assert first.value("certificate_writes_total", what="certificate") == 1
        assert first.value("certificate_writes_total", what="ca_bundle") == 1
        assert second.value("certificate_writes_total", what="certificate") == 0

    run(tmp_path, test)


def test_who_may_not_act_shows_the_certificate_and_writes_nothing(tmp_path: Path) -> None:
    async def test(given: Cluster) -> None:
        other = given.replica(acts=False)
        assert await other.keeper.look() == POLICY.look.total_seconds()
        assert given.writes() == []
        await given.replica().settle()
        written = given.writes()
        await other.keeper.look()
        assert other.live.problem() is None
        given.now += 3 * POLICY.authority
        with pytest.raises(
            CertificateError, match=r"expired at .*the replica that holds the Lease"
        ):
            await other.keeper.look()
        assert given.writes() == written

    run(tmp_path, test)


def test_two_that_act_at_once_do_no_harm(tmp_path: Path) -> None:
    async def test(given: Cluster) -> None:
        both = [given.replica(), given.replica()]
        for _ in range(8):
            await asyncio.gather(*(replica.keeper.look() for replica in both))
        for replica in both:
            await replica.settle()
            shown = replica.live.current
            assert shown is not None
            assert all(accepts(bundle, shown.certificate, NOW) for bundle in given.bundles)
        # One of each, whoever was quicker.
        for what in ("ca", "certificate", "ca_bundle"):
            made = [each.value("certificate_writes_total", what=what) or 0 for each in both]
            assert sum(made) == 1

    run(tmp_path, test)


@pytest.mark.parametrize("request_number", [2, 3], ids=["between its reads", "before it writes"])
def test_a_slow_replica_does_not_put_an_old_bundle_in_place_of_a_newer_one(
    tmp_path: Path, request_number: int
) -> None:
    async def test(given: Cluster) -> None:
        slow, quick = given.replica(), given.replica()
        await slow.settle()
        given.server.change(HOOKS, configuration(b"overwritten"))
        asked_so_far = len(given.server.asked)
        go_on = asyncio.Event()
        held_up = Fault(
            lambda _: len(given.server.asked) == asked_so_far + request_number, until=go_on
        )
        given.server.faults.append(held_up)
        looking = asyncio.create_task(slow.keeper.look())
        await until(lambda: held_up.times == 0)
        given.server.change(SECRET, None)
        await quick.settle()
        newer = given.bundles
        go_on.set()
        assert await looking == CONFLICT_SECONDS
        assert given.bundles == newer
        await slow.settle()
        assert given.bundles == newer

    run(tmp_path, test)


def test_a_lost_secret_is_replaced_and_what_is_shown_stays_accepted(tmp_path: Path) -> None:
    async def test(given: Cluster) -> None:
        one = given.replica()
        await one.settle()
        before, old = one.live.current, given.bundles[0]
        given.server.change(SECRET, None)
        await one.settle()
        assert one.live.current == before
        assert given.bundles[0].count(b"BEGIN") == 2
        given.seconds += POLICY.propagation.total_seconds()
        await one.settle()
        assert one.live.current != before
        assert one.live.current is not None
        assert accepts(given.bundles[0], one.live.current.certificate, NOW)
        assert not accepts(old, one.live.current.certificate, NOW)

    run(tmp_path, test)


def test_a_secret_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    async def test(given: Cluster) -> None:
        foreign = {"data": {"tls.crt": base64.b64encode(b"theirs").decode()}, "metadata": {}}
        before = given.server.change(SECRET, foreign)
        with pytest.raises(CertificateError, match="secrets meshgraft/certs holds a certificate"):
            await given.replica().keeper.look()
        assert given.server.kept[SECRET] == before
        assert given.writes() == []

    run(tmp_path, test)


def test_damage_is_told_once_and_mended(tmp_path: Path, logged: list[Any]) -> None:
    async def test(given: Cluster) -> None:
        one = given.replica()
        await one.settle()
        shown = one.live.current
        secret = given.server.kept[SECRET]
        given.server.change(SECRET, {**secret, "data": {**secret["data"], "tls.key": "eA=="}})
        other = given.replica(acts=False)
        for _ in range(2):
            await other.keeper.look()
        assert "waiting" in (other.live.problem() or "")
        await one.settle()
        await other.keeper.look()
        assert one.live.current != shown
        assert other.live.problem() is None

    run(tmp_path, test)
    told = [line for line in logged if line["event"].startswith("the Secret is damaged")]
    assert len(told) == 2  # by each replica
    assert "secrets meshgraft/certs/tls.key: not a PEM private key" in told[0]["error"]


def test_without_a_configuration_it_says_so_and_issues_all_the_same(tmp_path: Path) -> None:
    async def test(given: Cluster) -> None:
        given.server.change(HOOKS, None)
        one = given.replica()
        with pytest.raises(
            CertificateError, match="there is no mutatingwebhookconfigurations hooks"
        ):
            await one.settle()
        assert one.live.problem() is None
        given.server.change(HOOKS, configuration())
        await one.settle()
        assert given.bundles[0].count(b"BEGIN") == 1

    run(tmp_path, test)


def test_a_caBundle_that_may_not_be_written_does_not_hold_up_the_renewal(  # noqa: N802
    tmp_path: Path,
) -> None:
    async def test(given: Cluster) -> None:
        one = given.replica()
        await one.settle()
        before = one.live.current
        given.server.change(HOOKS, configuration(b"overwritten"))
        fault = given.refuse(403, lambda asked: asked.method == "PUT" and asked.path == HOOKS)
        given.now += POLICY.leaf * 3 / 4
        with pytest.raises(ApiServerError, match=r"PUT /apis/admissionregistration.* with 403"):
            await one.keeper.look()
        fault.times = 0
        await one.settle()
        assert one.live.current != before
        assert one.live.current is not None
        assert accepts(given.bundles[0], one.live.current.certificate, given.now)

    run(tmp_path, test)


def test_without_leave_to_read_the_configuration_it_renews_and_makes_nothing_else(
    tmp_path: Path,
) -> None:
    async def test(given: Cluster) -> None:
        one = given.replica()
        await one.settle()
        before = one.live.current
        fault = given.refuse(403, lambda asked: asked.method == "GET" and asked.path == HOOKS)
        given.now += POLICY.leaf * 3 / 4
        for _ in range(2):
            with pytest.raises(ApiServerError, match=r"GET .*hooks with 403"):
                await one.keeper.look()
        assert one.live.current != before
        given.server.change(SECRET, None)
        with pytest.raises(ApiServerError):
            await one.keeper.look()
        assert SECRET not in given.server.kept
        fault.times = 0
        await one.settle()
        assert SECRET in given.server.kept

    run(tmp_path, test)


def test_a_contest_about_the_bundle_slows_down_and_is_told(
    tmp_path: Path, logged: list[Any]
) -> None:
    async def test(given: Cluster) -> None:
        one = given.replica()
        await one.settle()
        fields = [{"manager": "argocd", "time": "2026"}]
        good, waits = given.bundles[:1], []
        for _ in range(4):
            hooks = configuration(b"overwritten")
            hooks["metadata"]["managedFields"] = fields
            given.server.change(HOOKS, hooks)
            waits.append(await one.keeper.look())
            given.seconds += waits[-1]
            await one.settle()
            assert given.bundles == good
        assert waits[:2] == [0, 0]
        assert min(waits[2:]) > 0

    run(tmp_path, test)
    told = [line for line in logged if line["event"] == "caBundle put back"]
    assert [line["log_level"] for line in told] == ["info", "info", "warning", "warning"]
    assert told[-1]["changedBy"] == "argocd"


def test_what_it_changes_itself_is_no_contest(tmp_path: Path, logged: list[Any]) -> None:
    async def test(given: Cluster) -> None:
        one = given.replica()
        await one.settle()
        for _ in range(4):
            given.server.change(SECRET, None)
            await one.settle()
            given.seconds += POLICY.propagation.total_seconds()
            await one.settle()
        assert one.value("certificate_writes_total", what="ca_bundle") == 5

    run(tmp_path, test)
    assert "caBundle put back" not in {line["event"] for line in logged}


def test_a_certificate_of_a_clock_ahead_is_not_taken(tmp_path: Path) -> None:
    async def test(given: Cluster) -> None:
        await given.replica().settle()
        given.now -= BACKDATED + timedelta(minutes=1)
        other = given.replica(acts=False)
        with pytest.raises(
            CertificateError, match=r"not valid before .*check this machine's clock"
        ):
            await other.keeper.look()
        assert other.live.current is None

    run(tmp_path, test)


def test_a_pair_that_openssl_refuses_is_replaced(tmp_path: Path) -> None:
    async def test(given: Cluster) -> None:
        one = given.replica()
        await one.settle()
        key = rsa.generate_private_key(65537, 1024)
        now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "weak")])
        weak = x509.CertificateBuilder(now, now, key.public_key(), 1, NOW, NOW + POLICY.leaf)
        pem = weak.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        secret = given.server.kept[SECRET]
        data = {"tls.crt": base64.b64encode(pem), "tls.key": base64.b64encode(private)}
        changed = {name: text.decode() for name, text in data.items()}
        given.server.change(SECRET, {**secret, "data": {**secret["data"], **changed}})
        other = given.replica(acts=False)
        with pytest.raises(CertificateError, match=r"OpenSSL refuses it"):
            await other.keeper.look()
        await one.settle()
        await other.keeper.look()
        assert other.live.problem() is None

    run(tmp_path, test)


def test_what_does_not_stay_as_it_was_written_is_not_written_for_ever(
    tmp_path: Path, logged: list[Any]
) -> None:
    async def test(given: Cluster) -> None:
        def meddle(path: str, obj: dict[str, Any] | None) -> None:
            if path == SECRET and obj:
                obj["data"]["next-ca.key"] = ""

        given.server.on_change = meddle
        one = given.replica()
        task = asyncio.create_task(one.keeper.run())
        await until(lambda: one.value("certificate_failing") == 1)
        task.cancel()
        await asyncio.wait([task])

    run(tmp_path, test)
    [line] = [line for line in logged if line["log_level"] == "error" and "stay" in line["error"]]
    assert "does not stay as it was written: see whether another webhook" in line["error"]


def test_what_cannot_be_done_is_said_once_and_taken_back(tmp_path: Path, logged: list[Any]) -> None:
    async def test(given: Cluster) -> None:
        fault = given.refuse(403, lambda asked: asked.method == "POST")
        one = given.replica()
        task = asyncio.create_task(one.keeper.run())
        await until(lambda: len(given.writes()) > 2)
        assert one.value("certificate_failing") == 1
        assert "with 403: as the test wants it" in (one.live.problem() or "")
        fault.times = 0
        await until(lambda: one.live.problem() is None)
        await until(lambda: one.value("certificate_failing") == 0)
        await given.server.stop()
        one.keeper.wake()
        await until(lambda: one.value("certificate_failing") == 1)
        # What is in memory goes on serving.
        assert one.live.problem() is None
        await given.server.start()
        task.cancel()
        await asyncio.wait([task])

    run(tmp_path, test)
    events = [line["event"] for line in logged if line["event"].startswith("certificates ")]
    assert events[:2] == [
        "certificates cannot be looked after",
        "certificates are looked after again",
    ]
    assert len(events) == 3


def test_what_changes_is_noticed_at_once(tmp_path: Path, logged: list[Any]) -> None:
    """The watches wake the keeper; its own looks are a minute apart."""

    async def test(given: Cluster) -> None:
        metrics, live = Metrics("test"), LiveCertificate(clock=lambda: given.now)
        clock = Clock(now=lambda: given.now)
        kept = Kept(secret=KEPT.secret, configuration=KEPT.configuration)
        work = work_of_replica(given.api, kept, POLICY, live, metrics, name="me", clock=clock)
        tasks = [asyncio.create_task(keep_running(*each)) for each in work.items()]
        await until(lambda: live.problem() is None and all(given.bundles))
        await until(lambda: len(given.server._listeners) == 2)
        good = given.bundles
        given.server.change(HOOKS, configuration(b"overwritten", b""))
        await until(lambda: given.bundles == good, 3)
        secret = given.server.kept[SECRET]
        given.server.change(SECRET, None)
        await until(lambda: SECRET in given.server.kept, 3)
        assert read_held(given.server.kept[SECRET], "").former == read_held(secret, "").trusted
        assert metrics.registry.get_sample_value("proxy_inject_certificate_lease_held") == 1
        # The keys do not travel over a watch.
        watches = [
            each for each in given.server.asked if each.is_watch or "fieldSelector" in each.query
        ]
        assert all("PartialObjectMetadata" in each.headers["accept"] for each in watches)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    run(tmp_path, test)
    assert not [line for line in logged if line["event"].startswith("cannot watch")]


def test_a_replica_is_called_as_its_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POD_NAME", "meshgraft-injector-0")
    assert identity() == "meshgraft-injector-0"
    monkeypatch.delenv("POD_NAME")
    assert identity() != identity()


def test_a_secret_that_was_made_empty_beforehand_is_filled(tmp_path: Path) -> None:
    async def test(given: Cluster) -> None:
        empty = {
            "type": "kubernetes.io/tls",
            "metadata": {},
            "data": {"tls.crt": "", "tls.key": ""},
        }
        given.server.change(SECRET, empty)
        one = given.replica()
        await one.settle()
        assert one.live.problem() is None
        assert "POST" not in [method for method, _ in given.writes()]
        stored = given.server.kept[SECRET]
        assert write_held(read_held(stored, ""), stored, "", "") == stored

    run(tmp_path, test)
