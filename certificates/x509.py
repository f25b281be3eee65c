"""The webhook's certificate: how it is issued, checked, read from a folder, and given to OpenSSL.

A folder holds ``tls.crt`` and ``tls.key``, as a mounted Secret of type kubernetes.io/tls does,
and ``ca.crt`` beside them where we issued them: the bundle for the webhook configuration's
``caBundle``.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
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

from process.files import make_folder, replace_file
from vocabulary.errors import MeshgraftError

CA_LIFETIME = timedelta(days=3650)
"""Of a CA in a folder. Ten years: its caBundle is written by hand, and must not need it again."""
LEAF_LIFETIME = timedelta(days=90)
"""Of a certificate in a folder, which the running process renews."""
BACKDATED = timedelta(hours=1)
"""How far the clock of an API server may be behind ours: a certificate holds from that much before
it was issued."""
CA_NAME, LEAF_NAME = "meshgraft CA", "meshgraft webhook"
"""Common names: for people, and to know our own again."""


class CertificateError(MeshgraftError, ValueError):
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
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ServingCert:
    """A pair that was checked: certificate and key belong together."""

    pair: KeyPair
    certificate: x509.Certificate
    """The server's own, the first of a chain."""
    source: str
    """Where it came from, for errors: a folder, or a Secret."""
    remedy: str = (
        "put a new pair in place, which is taken up at once, or remove both files and start again "
        "to have one issued"
    )
    """What to do when it has expired."""

    @property
    def not_before(self) -> datetime:
        """From when on it holds, in UTC."""
        return self.certificate.not_valid_before_utc

    @property
    def not_after(self) -> datetime:
        """When it expires, in UTC."""
        return self.certificate.not_valid_after_utc


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


def key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    """What a certificate's key is for: to sign certificates, or to prove who its owner is."""
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


def issue_authority(
    now: datetime, lifetime: timedelta = CA_LIFETIME, path_length: int = 0
) -> Authority:
    """A new CA (ECDSA P-256), valid for ``lifetime`` from ``now`` (an aware datetime).

    ``path_length`` is how many CAs may stand between it and what it leads to.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = _common_name(CA_NAME)
    certificate = (
        _builder(name, key.public_key())
        .issuer_name(name)
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(key_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Authority(certificate, key)


def issue_serving(
    authority: Authority, sans: Sequence[str], now: datetime, lifetime: timedelta = LEAF_LIFETIME
) -> KeyPair:
    """A new serving certificate (ECDSA P-256) for DNS names and IP addresses.

    It holds for ``lifetime``, though never longer than the CA.

    Raises:
        CertificateError: no name is given, or one is no DNS name and no address.
    """
    if not sans:
        raise CertificateError("a serving certificate needs at least one name")
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = authority.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    certificate = (
        _builder(_common_name(LEAF_NAME), key.public_key())
        .issuer_name(authority.certificate.subject)
        .not_valid_before(now - BACKDATED)
        .not_valid_after(min(now + lifetime, authority.certificate.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_san(san) for san in sans]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer.value),
            critical=False,
        )
        .sign(authority.key, hashes.SHA256())
    )
    return KeyPair(certificate.public_bytes(Encoding.PEM), key_pem(key))


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key as PEM (PKCS #8, not encrypted)."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def certificates_pem(certificates: Iterable[x509.Certificate]) -> bytes:
    """Certificates one after the other, as a ``caBundle`` holds them."""
    return b"".join(each.public_bytes(Encoding.PEM) for each in certificates)


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


def is_issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether the CA has signed it; the time is not asked."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def write_pair(
    folder: Path, authority: Authority, pair: KeyPair, also_trusted: bytes = b""
) -> None:
    """Write ``ca.crt``, ``tls.crt`` and ``tls.key`` (mode 0600). The CA's key is not written.

    ``also_trusted`` are further certificates (PEM) for ``ca.crt``.

    Raises:
        FileError: the folder cannot be made or written to.
    """
    make_folder(folder, 0o700)
    replace_file(folder / "tls.key", pair.key, 0o600)
    replace_file(folder / "ca.crt", authority.pem + also_trusted, 0o644)
    replace_file(folder / "tls.crt", pair.certificate, 0o644)


def load(folder: Path, now: datetime) -> ServingCert:
    """The pair in a folder: parsable, belonging together, valid now.

    Raises:
        CertificateError: what is wrong, with which file.
    """
    # A Secret's files are links through ..data, which moves to a new folder as a whole:
    # follow it once, so that certificate and key are of one generation.
    real = (folder / "..data").resolve() if (folder / "..data").exists() else folder
    pair = KeyPair(_read(real / "tls.crt"), _read(real / "tls.key"))
    cert = check_pair(pair, str(real))
    problem = validity_problem(cert, now)
    if problem:
        raise CertificateError(problem)
    return cert


def check_pair(pair: KeyPair, source: str) -> ServingCert:
    """A pair that is parsable and belongs together; whether it holds now is not asked.

    Raises:
        CertificateError: what is wrong; ``source``, a folder or a Secret, goes before the name.
    """
    leaf, leaf_public = _leaf(pair.certificate, f"{source}/tls.crt")
    if _public_half(pair.key, f"{source}/tls.key") != leaf_public:
        raise CertificateError(
            f"{source}/tls.key: does not belong to the certificate in {source}/tls.crt; "
            "both must be of the same pair"
        )
    return ServingCert(pair, leaf, source)


def validity_problem(cert: ServingCert, now: datetime) -> str | None:
    """What is wrong, and what to do, where the certificate does not hold now; else None."""
    if now < cert.not_before:
        return (
            f"{cert.source}/tls.crt: not valid before {cert.not_before.isoformat()}, and it is "
            f"{now.isoformat(timespec='seconds')}; check this machine's clock, or wait"
        )
    if now < cert.not_after:
        return None
    return f"{cert.source}/tls.crt: expired at {cert.not_after.isoformat()}; {cert.remedy}"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CertificateError(f"{path}: cannot be read: {error.strerror or error}") from error


def _der(public: PublicKeyTypes) -> bytes:
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _not_empty(content: bytes, name: str) -> None:
    if not content.strip():
        raise CertificateError(f"{name}: is empty")


def _leaf(content: bytes, name: str) -> tuple[x509.Certificate, bytes]:
    """The server's own certificate, the first of a chain, and its public key as DER."""
    _not_empty(content, name)
    try:
        leaf = x509.load_pem_x509_certificates(content)[0]
        return leaf, _der(leaf.public_key())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateError(f"{name}: not a PEM certificate: {error}") from error


def _public_half(content: bytes, name: str) -> bytes:
    """The public key (DER) that belongs to the private key."""
    _not_empty(content, name)
    try:
        return _der(load_pem_private_key(content, password=None).public_key())
    except TypeError as error:
        raise CertificateError(f"{name}: the private key is encrypted; it must not be") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateError(f"{name}: not a PEM private key: {error}") from error


@dataclass(frozen=True, slots=True)
class TlsPolicy:
    """Whom the server talks to."""

    minimum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
    """1.3, as Linkerd's injector; an API server in FIPS mode may need 1.2."""
    client_ca: str | None = None
    """CA certificates in PEM: a client has to show a certificate that one of them has signed."""


DEFAULT_POLICY = TlsPolicy()


def load_policy(minimum: str, client_ca: Path | None) -> TlsPolicy:
    """The policy for ``1.2`` or ``1.3`` and the CA bundle of clients in a file.

    Raises:
        CertificateError: the file cannot be read, or holds no certificate.
    """
    version = ssl.TLSVersion.TLSv1_2 if minimum == "1.2" else ssl.TLSVersion.TLSv1_3
    if client_ca is None:
        return TlsPolicy(version)
    try:
        text = client_ca.read_text("ascii")
        x509.load_pem_x509_certificates(text.encode())
    except (OSError, ValueError) as error:
        raise CertificateError(f"{client_ca}: not a bundle of CA certificates: {error}") from error
    return TlsPolicy(version, text)


def server_context(cert: ServingCert, policy: TlsPolicy = DEFAULT_POLICY) -> ssl.SSLContext:
    """A TLS server context.

    For a new pair there is a new context: `certificates.live`.

    Raises:
        CertificateError: OpenSSL refuses the pair (for instance an algorithm too weak).
    """
    context = empty_context(policy)
    # OpenSSL reads files only. This one is in memory, so that it is the pair that was checked, and
    # that a key from a Secret is never written to a disk.
    memory = os.memfd_create("tls", os.MFD_CLOEXEC)
    try:
        with os.fdopen(memory, "wb", closefd=False) as file:
            file.write(cert.pair.certificate.rstrip() + b"\n" + cert.pair.key)
        context.load_cert_chain(f"/proc/self/fd/{memory}")
    except (ssl.SSLError, OSError) as error:
        raise CertificateError(f"{cert.source}/tls.crt: OpenSSL refuses it: {error}") from error
    finally:
        os.close(memory)
    return context


def empty_context(policy: TlsPolicy = DEFAULT_POLICY) -> ssl.SSLContext:
    """What `server_context` makes, before it has a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = policy.minimum
    # Of 1.2 only; it is work that a client may ask for as often as it likes.
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    if policy.client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=policy.client_ca)
    return context
