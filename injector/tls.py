"""The certificate in use: new connections get a new pair as soon as the folder holds one."""

from __future__ import annotations

import contextlib
import hashlib
import ssl
from datetime import UTC, datetime
from pathlib import Path

from injector.certs import ServingCert, load, server_context, validity_problem


class LiveCertificate:
    """A TLS context that the server keeps, behind which the certificate changes.

    The context is changed as a whole, during a handshake: one into which a second pair is loaded
    stands without any key where that fails half-way. Connections that are open stay as they are.
    """

    def __init__(self, folder: Path, cert: ServingCert) -> None:
        """Begin with a pair that was loaded from ``folder``.

        Raises:
            CertificateError: OpenSSL refuses it.
        """
        self._folder = folder
        self._current = cert
        self._digest = _digest(folder)
        self._fresh = server_context(cert)
        self.context = server_context(cert)
        """What the server is given, once."""
        self.context.sni_callback = self._choose

    @property
    def current(self) -> ServingCert:
        """The pair in use."""
        return self._current

    def problem(self) -> str | None:
        """What is wrong with the pair in use now; it may have expired meanwhile."""
        return validity_problem(self._current, datetime.now(UTC))

    def reload(self) -> bool:
        """Take up what the folder holds now; True where it is another pair.

        Raises:
            CertificateError: it is not usable; the pair so far stays in use.
        """
        # Read first: what changes while the rest goes on differs from it at the next look.
        digest = _digest(self._folder)
        cert = load(self._folder, datetime.now(UTC))
        if digest == self._digest:
            return False
        self._fresh = server_context(cert)
        self._current, self._digest = cert, digest
        return True

    def _choose(
        self, connection: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _first: ssl.SSLContext
    ) -> None:
        # OpenSSL asks at each handshake, whether or not the client sent a name.
        connection.context = self._fresh


def _digest(folder: Path) -> bytes:
    digest = hashlib.sha256()
    for name in ("tls.crt", "tls.key"):
        with contextlib.suppress(OSError):  # `load` says what cannot be read.
            digest.update((folder / name).read_bytes())
    return digest.digest()
