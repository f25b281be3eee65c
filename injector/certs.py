"""The webhook's certificate: issued by itself or loaded from a folder, with its expiry known.

A folder holds ``tls.crt`` and ``tls.key``, as a mounted Secret of type kubernetes.io/tls does,
and ``ca.crt`` beside them where we issued them: the bundle for the webhook configuration's
``caBundle``.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from injector.files import make_folder, replace_file

CA_LIFETIME = timedelta(days=3650)
"""Ten years: a CA is replaced on purpose (with an overlap of the bundle), never by surprise."""
LEAF_LIFETIME = timedelta(days=90)
"""Short, because a leaf costs nothing to issue again; leaked, it is of little use."""
_CLOCK_SKEW = timedelta(minutes=5)


class CertificateError(ValueError):
    """The certificate or key is not usable; the text names the file and what to do."""


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority, whose key may sign serving certificates."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        """The CA certificate: what ``caBundle`` needs."""
        return self.certificate.public_bytes(Encoding.PEM)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes


@dataclass(frozen=True, slots=True)
class ServingCert:
    """A pair on disk that was checked: the files, and from when to when it holds."""

    certificate: Path
    key: Path
    ca: Path | None
    """``ca.crt`` beside them, where there is one."""
    not_before: datetime
    not_after: datetime
    """The bounds of validity, in UTC."""
    issued: bool = False
    """Whether this process has just issued it."""


def _common_name(text: str) -> x509.Name:
    """A name for people; what clients compare is in the SAN."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(subject: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def issue_authority(now: datetime, common_name: str = "meshgraft CA") -> Authority:
    """A new CA (ECDSA P-256), valid for `CA_LIFETIME` from ``now`` (an aware datetime)."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _common_name(common_name)
    certificate = (
        _builder(name, key.public_key())
        .issuer_name(name)
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Authority(certificate, key)


def issue_serving(authority: Authority, sans: Sequence[str], now: datetime) -> KeyPair:
    """A new serving certificate (ECDSA P-256) for DNS names and IP addresses.

    Raises:
        CertificateError: no name is given, or one is no DNS name and no address.
    """
    if not sans:
        raise CertificateError("a serving certificate needs at least one name")
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = authority.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    certificate = (
        _builder(_common_name("meshgraft webhook"), key.public_key())
        .issuer_name(authority.certificate.subject)
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + LEAF_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_san(san) for san in sans]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer.value),
            critical=False,
        )
        .sign(authority.key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return KeyPair(certificate.public_bytes(Encoding.PEM), private)


def _san(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        pass
    try:
        if not text:
            raise ValueError("it is empty")
        return x509.DNSName(text)
    except ValueError as error:
        raise CertificateError(f"{text!r} is no DNS name and no address: {error}") from error


def write_pair(folder: Path, authority: Authority, pair: KeyPair) -> None:
    """Write ``ca.crt``, ``tls.crt`` and ``tls.key`` (mode 0600). The CA's key is not written.

    Raises:
        FileError: the folder cannot be made or written to.
    """
    make_folder(folder, 0o700)
    replace_file(folder / "tls.key", pair.key, 0o600)
    replace_file(folder / "ca.crt", authority.pem, 0o644)
    replace_file(folder / "tls.crt", pair.certificate, 0o644)


def ensure(folder: Path, sans: Sequence[str], now: datetime) -> ServingCert:
    """The folder's certificate; where the folder has none, one is issued into it first.

    Raises:
        CertificateError: as `load`, or as `issue_serving`.
        FileError: there is none and the folder cannot be written to.
    """
    missing = not any((folder / name).exists() for name in ("tls.crt", "tls.key"))
    if missing:
        authority = issue_authority(now)
        # The authority's key ends here: what can sign for the cluster is not left on a disk.
        write_pair(folder, authority, issue_serving(authority, sans, now))
    return replace(load(folder, now), issued=missing)


def load(folder: Path, now: datetime) -> ServingCert:
    """Check the pair in a folder: parsable, belonging together, valid now.

    Raises:
        CertificateError: what is wrong, with which file.
    """
    # A Secret's files are links through ..data, which moves to a new folder as a whole:
    # follow it once, so that certificate and key are of one generation.
    real = (folder / "..data").resolve() if (folder / "..data").exists() else folder
    certificate, key, ca = (real / name for name in ("tls.crt", "tls.key", "ca.crt"))
    leaf, leaf_public = _read_leaf(certificate)
    if _read_public_half(key) != leaf_public:
        raise CertificateError(
            f"{key}: does not belong to the certificate in {certificate}; "
            "both must be of the same pair"
        )
    cert = ServingCert(
        certificate,
        key,
        ca if ca.exists() else None,
        leaf.not_valid_before_utc,
        leaf.not_valid_after_utc,
    )
    problem = validity_problem(cert, now)
    if problem:
        raise CertificateError(problem)
    return cert


def validity_problem(cert: ServingCert, now: datetime) -> str | None:
    """What is wrong, and what to do, where the certificate does not hold now; else None."""
    if now < cert.not_before:
        return (
            f"{cert.certificate}: not valid before {cert.not_before.isoformat()}, and it is "
            f"{now.isoformat(timespec='seconds')}; check this machine's clock, or wait"
        )
    if now < cert.not_after:
        return None
    return (
        f"{cert.certificate}: expired at {cert.not_after.isoformat()}; put a new pair in place, "
        "which is taken up at once, or remove both files and start again to have one issued"
    )


def _read(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CertificateError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not content.strip():
        raise CertificateError(f"{path}: is empty")
    return content


def _der(public: PublicKeyTypes) -> bytes:
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _read_leaf(path: Path) -> tuple[x509.Certificate, bytes]:
    """The server's own certificate, the first of a chain, and its public key as DER."""
    content = _read(path)
    try:
        leaf = x509.load_pem_x509_certificates(content)[0]
        return leaf, _der(leaf.public_key())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateError(f"{path}: not a PEM certificate: {error}") from error


def _read_public_half(path: Path) -> bytes:
    """The public key (DER) that belongs to the private key in the file."""
    content = _read(path)
    try:
        return _der(load_pem_private_key(content, password=None).public_key())
    except TypeError as error:
        raise CertificateError(f"{path}: the private key is encrypted; it must not be") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateError(f"{path}: not a PEM private key: {error}") from error


def server_context(cert: ServingCert) -> ssl.SSLContext:
    """A TLS server context: version 1.3 and nothing older, as Linkerd's injector.

    For a new pair there is a new context: `injector.tls`.

    Raises:
        CertificateError: OpenSSL refuses the pair (for instance an algorithm too weak).
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(cert.certificate, cert.key)
    except (ssl.SSLError, OSError) as error:
        raise CertificateError(f"{cert.certificate}: OpenSSL refuses it: {error}") from error
    return context
