"""Certificates: what is issued holds up, and what is wrong in a folder is said of its file."""

from __future__ import annotations

import ipaddress
import os
import ssl
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from certificates.x509 import (
    BACKDATED,
    CA_LIFETIME,
    LEAF_LIFETIME,
    CertificateError,
    is_issued_by,
    issue_authority,
    issue_serving,
    load,
    server_context,
    validity_problem,
    write_pair,
)
from process.files import FileError

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
SANS = ["meshgraft-injector.meshgraft.svc", "localhost", "127.0.0.1", "::1"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a freshly issued pair."""
    authority = issue_authority(NOW)
    write_pair(tmp_path / "certs", authority, issue_serving(authority, SANS, NOW))
    return tmp_path / "certs"


def verify(authority: x509.Certificate, leaf: x509.Certificate, name: str, at: datetime) -> None:
    subject: x509.DNSName | x509.IPAddress
    try:
        subject = x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        subject = x509.DNSName(name)
    builder = PolicyBuilder().store(Store([authority])).time(at)
    builder.build_server_verifier(subject).verify(leaf, [])


@pytest.mark.parametrize("name", SANS)
def test_an_issued_certificate_verifies_for_each_of_its_names(name: str) -> None:
    authority = issue_authority(NOW)
    leaf = x509.load_pem_x509_certificate(issue_serving(authority, SANS, NOW).certificate)
    verify(authority.certificate, leaf, name, NOW)
    verify(authority.certificate, leaf, name, NOW + LEAF_LIFETIME - timedelta(seconds=1))
    with pytest.raises(VerificationError):
        verify(authority.certificate, leaf, name, NOW + LEAF_LIFETIME + timedelta(seconds=1))


@pytest.mark.parametrize("name", ["other.svc", "10.0.0.1"])
def test_an_issued_certificate_holds_for_no_other_name(name: str) -> None:
    authority = issue_authority(NOW)
    leaf = x509.load_pem_x509_certificate(issue_serving(authority, SANS, NOW).certificate)
    with pytest.raises(VerificationError):
        verify(authority.certificate, leaf, name, NOW)


def test_another_authority_does_not_vouch_for_it() -> None:
    leaf = x509.load_pem_x509_certificate(
        issue_serving(issue_authority(NOW), SANS, NOW).certificate
    )
    with pytest.raises(VerificationError):
        verify(issue_authority(NOW).certificate, leaf, SANS[0], NOW)


def test_keys_are_p256_and_the_authority_lives_ten_years() -> None:
    authority = issue_authority(NOW)
    key = load_pem_private_key(issue_serving(authority, SANS, NOW).key, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert isinstance(key.curve, ec.SECP256R1)
    assert isinstance(authority.key.curve, ec.SECP256R1)
    assert authority.certificate.not_valid_after_utc == NOW + CA_LIFETIME
    assert x509.load_pem_x509_certificate(authority.pem) == authority.certificate


@pytest.mark.parametrize("sans", [[], [""], ["bücher.example"]])
def test_names_that_no_certificate_can_carry_are_refused(sans: list[str]) -> None:
    with pytest.raises(CertificateError, match="name"):
        issue_serving(issue_authority(NOW), sans, NOW)


def test_a_name_longer_than_a_common_name_may_be_is_no_problem() -> None:
    authority, name = issue_authority(NOW), f"{'a' * 60}.{'b' * 60}.svc"
    leaf = x509.load_pem_x509_certificate(issue_serving(authority, [name], NOW).certificate)
    verify(authority.certificate, leaf, name, NOW)


def test_no_certificate_outlives_its_authority() -> None:
    authority = issue_authority(NOW, timedelta(days=5))
    leaf = x509.load_pem_x509_certificate(issue_serving(authority, SANS, NOW).certificate)
    assert leaf.not_valid_after_utc == NOW + timedelta(days=5)


def test_a_client_whose_clock_is_behind_accepts_it_at_once() -> None:
    authority = issue_authority(NOW)
    leaf = x509.load_pem_x509_certificate(issue_serving(authority, SANS, NOW).certificate)
    verify(authority.certificate, leaf, SANS[0], NOW - BACKDATED)


def test_who_signed_a_certificate_is_known_by_the_signature() -> None:
    ours, other = issue_authority(NOW), issue_authority(NOW)
    leaf = x509.load_pem_x509_certificate(issue_serving(ours, SANS, NOW).certificate)
    assert is_issued_by(leaf, ours.certificate)
    assert not is_issued_by(leaf, other.certificate)
    assert not is_issued_by(ours.certificate, leaf)


def test_only_the_owner_may_read_the_key_and_nothing_else_is_left_behind(folder: Path) -> None:
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == {"ca.crt": 0o644, "tls.crt": 0o644, "tls.key": 0o600}


def test_a_mounted_secret_is_read_through_its_data_link(folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    generation = secret / "..2026_11_21"
    generation.mkdir(parents=True)
    for name in ("tls.crt", "tls.key"):
        (generation / name).write_bytes((folder / name).read_bytes())
        (secret / name).symlink_to(f"..data/{name}")
    (secret / "..data").symlink_to(generation.name)
    # Resolved, so that certificate and key stay of one generation if the link moves on.
    assert load(secret, NOW).source == str(generation)


def _other_pair(folder: Path) -> None:
    (folder / "tls.key").write_bytes(issue_serving(issue_authority(NOW), SANS, NOW).key)


def _encrypted(folder: Path) -> None:
    key = load_pem_private_key((folder / "tls.key").read_bytes(), None)
    sealed = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    (folder / "tls.key").write_bytes(sealed)


@pytest.mark.parametrize(
    ("spoil", "file", "sentence"),
    [
        (lambda f: (f / "tls.key").unlink(), "tls.key", "cannot be read: No such file"),
        (lambda f: (f / "tls.crt").unlink(), "tls.crt", "cannot be read: No such file"),
        (lambda f: (f / "tls.crt").write_text(""), "tls.crt", "is empty"),
        (lambda f: (f / "tls.crt").write_text("hello"), "tls.crt", "not a PEM certificate"),
        (lambda f: (f / "tls.key").write_text("hello"), "tls.key", "not a PEM private key"),
        (_other_pair, "tls.key", "does not belong to the certificate"),
        (_encrypted, "tls.key", "is encrypted"),
    ],
)
def test_an_error_says_what_is_wrong_with_which_file(
    folder: Path, spoil: Callable[[Path], object], file: str, sentence: str
) -> None:
    spoil(folder)
    with pytest.raises(CertificateError) as problem:
        load(folder, NOW)
    assert str(problem.value).startswith(str(folder / file))
    assert sentence in str(problem.value)


def test_an_expired_certificate_is_refused_with_the_way_out(folder: Path) -> None:
    cert = load(folder, NOW)
    assert validity_problem(cert, NOW) is None
    with pytest.raises(CertificateError, match=r"expired at 2027-02-19.*new pair"):
        load(folder, NOW + LEAF_LIFETIME)


def test_a_folder_that_cannot_be_made_is_an_error_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    authority = issue_authority(NOW)
    with pytest.raises(FileError, match="file/certs: cannot be made"):
        write_pair(tmp_path / "file" / "certs", authority, issue_serving(authority, SANS, NOW))


def test_a_write_that_fails_leaves_what_was_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.read_bytes() for path in folder.iterdir()}

    def full(_descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    authority = issue_authority(NOW)
    with pytest.raises(FileError, match="No space left"):
        write_pair(folder, authority, issue_serving(authority, SANS, NOW))
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_the_server_speaks_tls_1_3_only(folder: Path) -> None:
    context = server_context(load(folder, NOW))
    assert context.minimum_version == ssl.TLSVersion.TLSv1_3


def test_a_chain_with_an_rsa_key_from_elsewhere_is_taken(tmp_path: Path) -> None:
    pair = trustme.CA(key_type=trustme.KeyType.RSA).issue_cert(
        "localhost", key_type=trustme.KeyType.RSA
    )
    pair.private_key_pem.write_to_path(tmp_path / "tls.key")
    for blob in pair.cert_chain_pems:
        blob.write_to_path(tmp_path / "tls.crt", append=True)
    cert = load(tmp_path, datetime.now(UTC))
    assert server_context(cert).cert_store_stats()["x509"] == 0
    assert cert.not_after > datetime.now(UTC)


def test_a_certificate_that_does_not_hold_yet_is_refused(folder: Path) -> None:
    early = load(folder, NOW).not_before - timedelta(seconds=1)
    with pytest.raises(CertificateError, match=r"not valid before .*check this machine's clock"):
        load(folder, early)
