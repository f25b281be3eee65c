"""A new key, and the certificate signing request that shows its public half."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding


def new_request() -> tuple[ec.EllipticCurvePrivateKey, bytes]:
    """A key of P-256, and the request (PEM). It names nobody: identity knows who asks."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return key, builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
