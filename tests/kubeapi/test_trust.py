"""Certificates of API servers: what Go's clients accept is accepted."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from lightkube.config import client_adapter
from lightkube.config.models import User

from kubeapi import client
from kubeapi.config import load_config

KUBECONFIG = """
current-context: c
clusters: [{name: c, cluster: {server: "https://localhost:1", certificate-authority: ca.crt}}]
contexts: [{name: c, context: {cluster: c}}]
"""


def pair_without_key_identifiers(folder: Path) -> None:
    """As clusters made by hand have them: no Authority Key Identifier anywhere."""
    now = datetime.now(UTC)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("ca", "api")]
    base = (
        x509.CertificateBuilder()
        .issuer_name(names[0])
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(hours=1))
    )
    authority = (
        base.subject_name(names[0])
        .public_key(ca_key.public_key())
        .serial_number(x509.random_serial_number())
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    leaf = (
        base.subject_name(names[1])
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    (folder / "ca.crt").write_bytes(authority.public_bytes(Encoding.PEM))
    (folder / "tls.pem").write_bytes(
        leaf.public_bytes(Encoding.PEM)
        + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )


async def handshake(folder: Path, trust: ssl.SSLContext) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "tls.pem")

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    served = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with served:
        host, port = served.sockets[0].getsockname()[:2]
        _, writer = await asyncio.open_connection(
            host, port, ssl=trust, server_hostname="localhost"
        )
        writer.close()


def test_a_certificate_without_an_authority_key_identifier_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair_without_key_identifiers(tmp_path)
    (tmp_path / "kubeconfig").write_text(KUBECONFIG)
    config = load_config(tmp_path / "kubeconfig")

    def strict(*given: object, **more: object) -> ssl.SSLContext:
        """As Python 3.13 makes it, on any version."""
        context = client_adapter.verify_cluster(*given, **more)  # type: ignore[arg-type]
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    strict_context = strict(config.cluster, User(), config.abs_file)
    with pytest.raises(ssl.SSLCertVerificationError, match="Key Identifier"):
        asyncio.run(handshake(tmp_path, strict_context))
    monkeypatch.setattr(client, "verify_cluster", strict)
    asyncio.run(handshake(tmp_path, client._trust(config, User())))
