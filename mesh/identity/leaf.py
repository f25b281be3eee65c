"""A pod's certificate: made of the public half of its key, and of who the pod is.

Source: SPIFFE's X.509-SVID specification (one URI in the SAN; digitalSignature; no CA), and RFC
5280. The DNS name beside it is what a client asks for by SNI.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from certificates.x509 import key_usage
from vocabulary.errors import MeshgraftError
from vocabulary.mesh import server_name, spiffe_id

LIFETIME = timedelta(hours=24)
BACKDATED = timedelta(minutes=5)
"""How far the clock of another node may be behind ours."""


class BadRequestError(MeshgraftError, ValueError):
    """What came is no request for a certificate that could be signed; the text says why."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a pod is."""

    trust_domain: str
    namespace: str
    service_account: str

    @property
    def uri(self) -> str:
        """Its SPIFFE ID."""
        return spiffe_id(self.trust_domain, self.namespace, self.service_account)

    @property
    def dns(self) -> str:
        """The same as a DNS name."""
        return server_name(self.trust_domain, self.namespace, self.service_account)


@dataclass(frozen=True, slots=True)
class Issuer:
    """Whose key signs, and what leads from it to a root."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    chain: tuple[x509.Certificate, ...] = ()
    """Between this one and the root, without it; empty where this one is the root's own child."""


def public_key_of(request: bytes) -> ec.EllipticCurvePublicKey:
    """The key of a certificate signing request (PEM), of which nothing else is looked at: who the
    pod is, it does not say itself.

    Raises:
        BadRequestError: it is no request, it is not signed by its own key, or not of P-256.
    """
    try:
        parsed = x509.load_pem_x509_csr(request)
        if not parsed.is_signature_valid:
            raise BadRequestError("the request is not signed by the key that it is for")
        key = parsed.public_key()
    except BadRequestError:
        raise
    except Exception as error:  # the library raises many kinds over hostile input
        raise BadRequestError(f"not a certificate signing request: {error}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise BadRequestError("the request's key is not of the curve P-256")
    return key


def sign(
    issuer: Issuer,
    key: ec.EllipticCurvePublicKey,
    identity: Identity,
    now: datetime,
    lifetime: timedelta = LIFETIME,
) -> bytes:
    """A pod's certificate and its chain, as PEM; it ends no later than the issuer's own."""
    names: list[x509.GeneralName] = [
        x509.UniformResourceIdentifier(identity.uri),
        x509.DNSName(identity.dns),
    ]
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return _signed(issuer, key, names, usages, (now, lifetime))


def sign_server(
    issuer: Issuer,
    key: ec.EllipticCurvePublicKey,
    names: Sequence[str],
    now: datetime,
    lifetime: timedelta = LIFETIME,
) -> bytes:
    """The certificate of a server of the mesh itself, for these DNS names, with its chain."""
    sans = [x509.DNSName(name) for name in names]
    return _signed(issuer, key, sans, [ExtendedKeyUsageOID.SERVER_AUTH], (now, lifetime))


def _signed(
    issuer: Issuer,
    key: ec.EllipticCurvePublicKey,
    names: Sequence[x509.GeneralName],
    usages: Sequence[x509.ObjectIdentifier],
    life: tuple[datetime, timedelta],
) -> bytes:
    now, lifetime = life
    authority = issuer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    leaf = (
        x509.CertificateBuilder()
        # No name: it would have to be cut to 64 characters, and nobody goes by it.
        .subject_name(x509.Name([]))
        .issuer_name(issuer.certificate.subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(min(now + lifetime, issuer.certificate.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        # Critical where the subject is empty (RFC 5280, 4.2.1.6).
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(authority.value),
            critical=False,
        )
        .sign(issuer.key, hashes.SHA256())
    )
    chain = (leaf, issuer.certificate, *issuer.chain)
    return b"".join(each.public_bytes(Encoding.PEM) for each in chain)
