"""Settings and certificates change on disk, as ConfigMaps and Secrets do, while reviews go on."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
from cryptography import x509
from structlog.testing import capture_logs
from watchfiles._rust_notify import WatchfilesRustInternalError

from certificates.folder import CertFolder
from certificates.live import LiveCertificate
from certificates.x509 import KeyPair, issue_authority, issue_serving
from injector.service import reload
from injector.service.metrics import Metrics, Reloaded
from injector.service.reload import Reloadable, keep_fresh
from injector.service.settings import Settings, SettingsError
from process.background import keep_running
from tests.kubeapi.fake_apiserver import until

NAMES = ["localhost", "127.0.0.1"]


class Mount:
    """A folder as the kubelet fills it: links through ``..data``, which moves as a whole."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._generation = 0
        folder.mkdir()

    def put(self, **files: bytes) -> None:
        """Replace all files at once. ``__`` in a name stands for a dot."""
        self._generation += 1
        named = {name.replace("__", "."): content for name, content in files.items()}
        data = self.folder / f"..{self._generation}"
        data.mkdir()
        for name, content in named.items():
            (data / name).write_bytes(content)
        link = self.folder / "..data_tmp"
        link.symlink_to(data.name)
        link.replace(self.folder / "..data")
        for name in named:
            if not (self.folder / name).is_symlink():
                (self.folder / name).symlink_to(f"..data/{name}")


@dataclass
class Watch:
    """Reloads what it is given, and counts."""

    items: Sequence[Reloadable]
    metrics: Metrics = field(default_factory=lambda: Metrics("test"))

    def counted(self, what: Reloaded, result: str) -> float:
        labels = {"what": what, "result": result}
        found = self.metrics.registry.get_sample_value("proxy_inject_reloads_total", labels)
        return found or 0.0

    def failing(self, what: Reloaded) -> float | None:
        name = "proxy_inject_reload_failing"
        return self.metrics.registry.get_sample_value(name, {"what": what})

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(keep_fresh(self.items, self.metrics))
        try:
            # Zero, not absent: the first look has been taken.
            await until(lambda: all(self.failing(item.what) == 0 for item in self.items))
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled(), task.exception()


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    structlog.reset_defaults()
    with capture_logs() as lines:
        yield lines


# Settings


def settings_in(mount: Mount) -> tuple[Settings, Watch]:
    settings = Settings(mount.folder / "values")
    return settings, Watch([Reloadable("settings", mount.folder, settings.reload)])


def test_settings_follow_the_config_map(tmp_path: Path) -> None:
    mount = Mount(tmp_path / "config")
    mount.put(values=b"clusterDomain: one.local")
    settings, watch = settings_in(mount)

    async def test() -> None:
        async with watch.running():
            mount.put(values=b"clusterDomain: two.local")
            await until(lambda: settings.current.cluster_domain == "two.local", 5)
            mount.put(values=b"clusterDomain: three.local")
            await until(lambda: settings.current.cluster_domain == "three.local", 5)
        assert watch.counted("settings", "ok") == 2

    asyncio.run(test())


@pytest.mark.parametrize("bad", [b"proxy: 3", b"a: b: c", b"\xff"])
def test_bad_settings_leave_the_last_good_ones_in_force(
    tmp_path: Path, bad: bytes, logged: list[Any]
) -> None:
    mount = Mount(tmp_path / "config")
    mount.put(values=b"clusterDomain: one.local")
    settings, watch = settings_in(mount)

    async def test() -> None:
        async with watch.running():
            mount.put(values=bad)
            await until(lambda: watch.failing("settings") == 1, 5)
            assert settings.current.cluster_domain == "one.local"
            mount.put(values=b"clusterDomain: two.local")
            await until(lambda: watch.failing("settings") == 0, 5)
            assert settings.current.cluster_domain == "two.local"
        assert watch.counted("settings", "failed") == 1

    asyncio.run(test())
    [line] = [line for line in logged if line["log_level"] == "error"]
    assert line["event"] == "not reloaded; what was loaded before stays in force"
    assert str(mount.folder / "values") in line["error"]


def test_a_file_that_is_edited_in_place_is_taken_up_too(tmp_path: Path) -> None:
    (tmp_path / "values").write_text("clusterDomain: one.local")
    settings = Settings(tmp_path / "values")
    watch = Watch([Reloadable("settings", tmp_path, settings.reload)])

    async def test() -> None:
        async with watch.running():
            (tmp_path / "values").write_text("clusterDomain: two.local")
            await until(lambda: settings.current.cluster_domain == "two.local", 5)

    asyncio.run(test())


def test_a_change_before_the_watch_begins_is_not_missed(tmp_path: Path) -> None:
    mount = Mount(tmp_path / "config")
    mount.put(values=b"clusterDomain: one.local")
    settings, watch = settings_in(mount)
    mount.put(values=b"clusterDomain: two.local")

    async def test() -> None:
        async with watch.running():
            assert settings.current.cluster_domain == "two.local"

    asyncio.run(test())


@pytest.mark.parametrize(
    "error",
    [
        WatchfilesRustInternalError("Error creating recommended watcher: Too many open files"),
        OSError(28, "OS file watch limit reached."),
    ],
)
def test_without_inotify_files_are_read_from_time_to_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: list[Any], error: Exception
) -> None:
    def exhausted(*_: object, **__: object) -> object:
        raise error

    monkeypatch.setattr(reload, "awatch", exhausted)
    monkeypatch.setattr(reload, "POLL_SECONDS", 0.05)
    mount = Mount(tmp_path / "config")
    mount.put(values=b"clusterDomain: one.local")
    settings, watch = settings_in(mount)

    async def test() -> None:
        async with watch.running():
            mount.put(values=b"clusterDomain: two.local")
            await until(lambda: settings.current.cluster_domain == "two.local", 5)

    asyncio.run(test())
    assert logged[0]["error"] == str(error)


def test_a_complaint_is_made_once_and_taken_back(logged: list[Any], tmp_path: Path) -> None:
    answers: list[Callable[[], bool]] = []

    def fails() -> bool:
        raise SettingsError("no good")

    item = Reloadable("settings", tmp_path, lambda: answers.pop(0)())
    answers += [fails, fails, lambda: False]
    watch = Watch([item])
    for _ in range(3):
        item.try_reload(watch.metrics)
    assert [line["event"] for line in logged] == [
        "not reloaded; what was loaded before stays in force",
        "files are as before again",
    ]
    assert (watch.failing("settings"), watch.counted("settings", "failed")) == (0, 1)


def test_a_defect_in_background_work_is_logged_and_it_starts_anew(
    monkeypatch: pytest.MonkeyPatch, logged: list[Any]
) -> None:
    monkeypatch.setattr("process.background.RESTART_SECONDS", 0.01)
    runs: list[int] = []

    async def work() -> None:
        runs.append(1)
        if len(runs) == 1:
            raise RuntimeError("a defect")
        if len(runs) == 3:
            await asyncio.Event().wait()

    async def test() -> None:
        task = asyncio.create_task(keep_running("w", work))
        await until(lambda: len(runs) == 3)
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(test())
    assert [line["event"] for line in logged] == [
        "background work failed",
        "background work ended",
    ]


# Certificates

AUTHORITY = issue_authority(datetime.now(UTC))


def pair(**changed: bytes) -> dict[str, bytes]:
    issued = issue_serving(AUTHORITY, NAMES, datetime.now(UTC))
    files = {"tls__crt": issued.certificate, "tls__key": issued.key, "ca__crt": AUTHORITY.pem}
    return {**files, **changed}


def expired() -> KeyPair:
    return issue_serving(AUTHORITY, NAMES, datetime.now(UTC) - timedelta(days=400))


BAD_PAIRS: dict[str, Callable[[], dict[str, bytes]]] = {
    "of two pairs": lambda: pair(tls__key=pair()["tls__key"]),
    "half a file": lambda: pair(tls__crt=pair()["tls__crt"][:300]),
    "empty": lambda: pair(tls__key=b""),
    "expired": lambda: pair(tls__crt=expired().certificate, tls__key=expired().key),
}


@dataclass
class Served:
    """A TLS server on a mounted Secret."""

    mount: Mount
    certificate: LiveCertificate
    watch: Watch
    port: int

    async def serial(self, server_hostname: str = "localhost") -> int:
        """Connect anew; the serial number of the certificate that is shown."""
        trust = ssl.create_default_context(cadata=AUTHORITY.pem.decode())
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=trust, server_hostname=server_hostname
        )
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.write(b"ping\n")
        assert await reader.readline() == b"ping\n"
        writer.close()
        await writer.wait_closed()
        return x509.load_der_x509_certificate(shown).serial_number


@contextlib.asynccontextmanager
async def served(folder: Path) -> AsyncIterator[Served]:
    mount = Mount(folder / "tls")
    mount.put(**pair())
    certificate = LiveCertificate()
    source = CertFolder(mount.folder, NAMES, certificate)
    source.start()
    watch = Watch([Reloadable("certificate", mount.folder, source.reload)])

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=certificate.context)
    port = server.sockets[0].getsockname()[1]
    async with asyncio.timeout(30), server, watch.running():
        yield Served(mount, certificate, watch, port)


# A client that asks for an address sends no server name, and the API server may be one.
@pytest.mark.parametrize("asked", ["localhost", "127.0.0.1"])
def test_new_connections_get_the_new_certificate(tmp_path: Path, asked: str) -> None:
    async def test() -> None:
        async with served(tmp_path) as given:
            before = await given.serial(asked)
            assert await given.serial(asked) == before
            given.mount.put(**pair())
            await until(lambda: given.watch.counted("certificate", "ok"), 5)
            assert await given.serial(asked) != before
            assert given.certificate.problem() is None

    asyncio.run(test())


@pytest.mark.parametrize("bad", BAD_PAIRS.values(), ids=BAD_PAIRS.keys())
def test_a_bad_pair_leaves_the_good_one_in_use(
    tmp_path: Path, bad: Callable[[], dict[str, bytes]], logged: list[Any]
) -> None:
    async def test() -> None:
        async with served(tmp_path) as given:
            before = await given.serial()
            given.mount.put(**bad())
            await until(lambda: given.watch.failing("certificate") == 1, 5)
            assert await given.serial() == before
            given.mount.put(**pair())
            await until(lambda: given.watch.failing("certificate") == 0, 5)
            assert await given.serial() != before

    asyncio.run(test())
    [line] = [line for line in logged if line["log_level"] == "error"]
    assert "tls" in line["error"]


def test_no_handshake_fails_while_pairs_are_swapped_and_open_connections_stay(
    tmp_path: Path,
) -> None:
    async def test() -> None:
        async with served(tmp_path) as given:
            trust = ssl.create_default_context(cadata=AUTHORITY.pem.decode())
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", given.port, ssl=trust, server_hostname="localhost"
            )
            seen: set[int] = set()
            for swaps in range(1, 6):
                given.mount.put(**pair())
                while given.watch.counted("certificate", "ok") < swaps:
                    seen.update(await asyncio.gather(*(given.serial() for _ in range(5))))
            writer.write(b"still here\n")
            assert await reader.readline() == b"still here\n"
            writer.close()
            await writer.wait_closed()
            assert len(seen) >= 5

    asyncio.run(test())
