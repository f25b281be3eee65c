"""Who signs: an intermediate of our own root, or a CA that somebody provides."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from certificates.secret import Held
from certificates.x509 import Authority, certificates_pem, is_issued_by, key_usage
from mesh.identity.leaf import BACKDATED, Issuer
from process.files import FileError

INTERMEDIATE = timedelta(days=7)
"""How long an intermediate lives; a new one is made at two thirds, and with each new root."""

_log = structlog.get_logger()


class Signer(Protocol):
    """Where an issuer comes from."""

    def issuer(self) -> Issuer | None:
        """Who signs now; None where nobody can."""

    def roots(self) -> bytes:
        """Whom to trust, PEM; empty where that is not known yet."""

    def problem(self) -> str | None:
        """Why nobody can sign now."""


def issue_intermediate(root: Authority, now: datetime) -> Issuer:
    """A new intermediate of this root, whose key stays in this process."""
    key = ec.generate_private_key(ec.SECP256R1())
    above = root.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "meshgraft intermediate CA")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(root.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(min(now + INTERMEDIATE, root.certificate.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(above.value),
            critical=False,
        )
        .sign(root.key, hashes.SHA256())
    )
    return Issuer(certificate, key)


class OwnRoot:
    """A `Signer` whose root the replicas keep in a Secret (`certificates.keeper`)."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        """Nobody can sign before `held` was called."""
        self._clock = clock
        self._held: Held | None = None
        self._issuer: Issuer | None = None

    def held(self, held: Held) -> None:
        """What the Secret holds, at each look."""
        self._held = held

    def root(self) -> Authority | None:
        """The root that signs now."""
        return self._held.signer if self._held else None

    def issuer(self) -> Issuer | None:
        """As `Signer`: an intermediate of the root that signs now."""
        root = self.root()
        if root is None:
            return None
        issuer, now = self._issuer, self._clock()
        if (
            issuer is None
            or not is_issued_by(issuer.certificate, root.certificate)
            or now >= issuer.certificate.not_valid_after_utc - INTERMEDIATE / 3
        ):
            issuer = self._issuer = issue_intermediate(root, now)
            until = issuer.certificate.not_valid_after_utc.isoformat()
            _log.info("intermediate CA issued", notAfter=until)
        return issuer

    def roots(self) -> bytes:
        """As `Signer`: the next root too, and former ones, while something of theirs is in use."""
        return self._held.bundle if self._held else b""

    def problem(self) -> str | None:
        """As `Signer`."""
        return None if self._held and self._held.signer else "there is no root yet"


class ProvidedIssuer:
    """A `Signer` in a folder: ``tls.crt`` and ``tls.key`` of a CA, and the roots in ``ca.crt``, as
    cert-manager and everybody with a PKI of their own write them. Read again when it changes."""

    def __init__(self, folder: Path) -> None:
        """Read it.

        Raises:
            FileError: it is not usable; the text names the file.
        """
        self._folder = folder
        self._problem: str | None = None
        self._issuer, self._roots = self._read()

    def reload(self) -> bool:
        """Read it again; True where something changed. What was good stays in use.

        Raises:
            FileError: it is not usable.
        """
        try:
            issuer, roots = self._read()
        except FileError as error:
            self._problem = str(error)
            raise
        changed = (issuer.certificate, roots) != (self._issuer.certificate, self._roots)
        self._issuer, self._roots, self._problem = issuer, roots, None
        return changed

    def issuer(self) -> Issuer | None:
        """As `Signer`."""
        return self._issuer

    def roots(self) -> bytes:
        """As `Signer`."""
        return self._roots

    def problem(self) -> str | None:
        """As `Signer`."""
        return self._problem

    def _read(self) -> tuple[Issuer, bytes]:
        real = (self._folder / "..data").resolve()
        folder = real if real.exists() else self._folder
        chain = _certificates(folder / "tls.crt")
        roots = _certificates(folder / "ca.crt")
        try:
            key = load_pem_private_key(_content(folder / "tls.key"), password=None)
        except (ValueError, TypeError) as error:
            raise FileError(f"{folder}/tls.key: not a PEM private key: {error}") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise FileError(f"{folder}/tls.key: expected an ECDSA key")
        if chain[0].public_key() != key.public_key():
            raise FileError(f"{folder}/tls.key: does not belong to the certificate in tls.crt")
        if not any(is_issued_by(chain[-1], root) for root in roots):
            raise FileError(f"{folder}/ca.crt: no root there has issued the CA in tls.crt")
        above = tuple(each for each in chain[1:] if each not in roots)
        return Issuer(chain[0], key, above), certificates_pem(roots)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror or error}") from error


def _certificates(path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(_content(path))
    except ValueError as error:
        raise FileError(f"{path}: not PEM certificates: {error}") from error
