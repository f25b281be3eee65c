"""A certificate in a folder: mounted, it is waited for and followed; our own is renewed in time."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
from cryptography import x509
from structlog.testing import capture_logs

from certificates import folder as cert_folder
from certificates.folder import CertFolder
from certificates.live import LiveCertificate
from certificates.x509 import (
    LEAF_LIFETIME,
    CertificateError,
    ServingCert,
    is_issued_by,
    issue_authority,
    issue_serving,
    load,
    write_pair,
)
from process.files import FileError
from tests.injector.cert_support import NOW
from tests.injector.service.test_reload import Mount

SANS = ["localhost"]
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
AUTHORITY = issue_authority(NOW)


@dataclass
class Setup:
    """One process on a folder, and its clock."""

    folder: Path
    now: datetime = NOW
    shown: list[ServingCert] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.start_anew()

    def start_anew(self) -> None:
        self.live = LiveCertificate(self.shown.append, lambda: self.now)
        self.source = CertFolder(self.folder, SANS, self.live, lambda: self.now)

    def trusted(self) -> list[x509.Certificate]:
        return x509.load_pem_x509_certificates((self.folder / "ca.crt").read_bytes())

    def at(self, after: timedelta) -> bool:
        self.now = NOW + after
        return self.source.reload()


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path / "certs")


@pytest.fixture(autouse=True)
def logged() -> Iterator[list[Any]]:
    structlog.reset_defaults()
    with capture_logs() as lines:
        yield lines


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every folder is mounted read-only, as Secrets are (root may write everywhere else)."""
    may = os.access

    def access(path: Any, mode: int) -> bool:
        return mode != os.W_OK and may(path, mode)

    monkeypatch.setattr(os, "access", access)


def files(**changed: bytes) -> dict[str, bytes]:
    pair = issue_serving(AUTHORITY, SANS, NOW)
    return {"tls__crt": pair.certificate, "tls__key": pair.key, **changed}


def test_an_empty_folder_is_filled_once(setup: Setup) -> None:
    setup.source.start()
    first = setup.live.current
    setup.start_anew()
    assert setup.live.current is None
    setup.source.start()
    assert setup.live.current == first
    assert [cert.not_after for cert in setup.shown] == [NOW + LEAF_LIFETIME] * 2
    assert setup.live.problem() is None
    assert not setup.at(LEAF_LIFETIME / 2)


def test_the_process_that_issued_it_renews_it_with_the_same_ca(setup: Setup) -> None:
    setup.source.start()
    before = setup.trusted()
    assert not setup.at(LEAF_LIFETIME * 2 / 3 - MINUTE)
    for _ in range(3):
        assert setup.at(setup.now - NOW + LEAF_LIFETIME)
        assert not setup.source.reload()
        assert setup.live.problem() is None
    assert setup.trusted() == before
    assert len(setup.shown) == 4


def test_a_later_process_needs_a_new_ca_and_says_so_on_the_last_day(
    setup: Setup, logged: list[Any]
) -> None:
    setup.source.start()
    [old] = setup.trusted()
    setup.start_anew()
    setup.source.start()
    assert not setup.at(LEAF_LIFETIME - DAY - MINUTE)
    assert setup.at(LEAF_LIFETIME - DAY)
    new, kept = setup.trusted()
    assert kept == old
    assert is_issued_by(setup.shown[-1].certificate, new)
    [warning] = [line for line in logged if line["log_level"] == "warning"]
    assert "put ca.crt, which holds the old one too, into caBundle" in warning["event"]


def test_a_pair_that_others_put_in_place_is_never_overwritten(setup: Setup) -> None:
    setup.source.start()
    other = issue_authority(NOW)
    pair = issue_serving(other, SANS, NOW + DAY)
    write_pair(setup.folder, other, pair)
    # It is taken up although our own would have been due at this moment.
    assert setup.at(LEAF_LIFETIME - MINUTE)
    assert setup.shown[-1].pair == pair


def test_a_certificate_of_another_issuer_is_left_to_expire(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("certificates.x509.LEAF_NAME", "somebody else's")
    write_pair(setup.folder, AUTHORITY, issue_serving(AUTHORITY, SANS, NOW))
    setup.source.start()
    with pytest.raises(CertificateError, match="expired"):
        setup.at(LEAF_LIFETIME)
    assert "expired" in (setup.live.problem() or "")


@pytest.mark.usefixtures("read_only")
@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        ({}, "waiting for tls.crt and tls.key in"),
        ({"tls__crt": files()["tls__crt"]}, "waiting for tls.key in"),
        ({"tls__key": files()["tls__key"]}, "waiting for tls.crt in"),
    ],
)
def test_a_mounted_secret_that_is_not_there_yet_is_waited_for(
    tmp_path: Path, found: dict[str, bytes], sentence: str, logged: list[Any]
) -> None:
    mount = Mount(tmp_path / "certs")
    mount.put(**found)
    setup = Setup(mount.folder)
    setup.source.start()
    assert sentence in (setup.live.problem() or "")
    assert sentence in logged[0]["event"]
    assert not setup.source.reload()
    mount.put(**files(tls__key=b"half"))
    with pytest.raises(CertificateError, match="not a PEM private key"):
        setup.source.reload()
    assert "not a PEM private key" in (setup.live.problem() or "")
    mount.put(**files())
    assert setup.source.reload()
    assert setup.live.problem() is None


@pytest.mark.usefixtures("read_only")
def test_a_mounted_certificate_is_left_to_those_who_mounted_it(tmp_path: Path) -> None:
    mount = Mount(tmp_path / "certs")
    mount.put(**files())
    setup = Setup(mount.folder)
    setup.source.start()
    assert not setup.at(LEAF_LIFETIME - MINUTE)


def test_half_of_a_pair_is_not_completed_by_another(setup: Setup) -> None:
    setup.folder.mkdir()
    (setup.folder / "tls.crt").write_bytes(files()["tls__crt"])
    setup.source.start()
    assert "waiting for tls.key" in (setup.live.problem() or "")
    assert not (setup.folder / "tls.key").exists()


def test_a_pair_that_is_not_usable_at_the_start_is_an_error(setup: Setup) -> None:
    write_pair(setup.folder, AUTHORITY, issue_serving(AUTHORITY, SANS, NOW - 2 * LEAF_LIFETIME))
    with pytest.raises(CertificateError, match="expired"):
        setup.source.start()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="file/certs: cannot be made"):
        Setup(tmp_path / "file" / "certs").source.start()


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda folder: (folder / "tls.key").unlink(), "tls.key: cannot be read"),
        (lambda folder: (folder / "tls.key").write_bytes(files()["tls__key"]), "does not belong"),
    ],
)
def test_what_is_wrong_later_leaves_the_good_pair_in_use(
    setup: Setup, spoil: Callable[[Path], object], sentence: str
) -> None:
    setup.source.start()
    before = setup.live.current
    spoil(setup.folder)
    with pytest.raises(CertificateError, match=sentence):
        setup.source.reload()
    assert setup.live.current == before


def test_a_pair_that_changes_while_it_is_read_is_taken_up_whole_at_the_next_look(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the old pair's expiry would one day make a replica unready that shows a good one."""

    def put(issued: datetime) -> None:
        write_pair(setup.folder, AUTHORITY, issue_serving(AUTHORITY, SANS, issued))

    put(NOW - 2 * DAY)
    setup.source.start()
    put(NOW - DAY)

    def load_while_it_changes(folder: Path, at: datetime) -> ServingCert:
        found = load(folder, at)
        put(NOW)
        monkeypatch.undo()
        return found

    monkeypatch.setattr(cert_folder, "load", load_while_it_changes)
    assert setup.source.reload()
    assert setup.source.reload()
    assert setup.live.current == load(setup.folder, NOW)


def test_without_a_certificate_no_handshake_begins(setup: Setup) -> None:
    here, there = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(here, there, server_hostname="localhost")
    server = setup.live.context.wrap_bio(there, here, server_side=True)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    with pytest.raises(ssl.SSLError):
        server.do_handshake()
    with pytest.raises(ssl.SSLError, match="internal error"):
        client.do_handshake()
