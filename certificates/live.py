"""The certificate in use: new connections get a new pair as soon as there is one."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import UTC, datetime

from certificates.x509 import (
    DEFAULT_POLICY,
    ServingCert,
    TlsPolicy,
    empty_context,
    server_context,
    validity_problem,
)


def utc_now() -> datetime:
    """The time, aware of its zone."""
    return datetime.now(UTC)


class LiveCertificate:
    """A TLS context that the server keeps, behind which the certificate changes.

    The context is changed as a whole, during a handshake: one into which a second pair is loaded
    stands without any key where that fails half-way. Connections that are open stay as they are.
    """

    def __init__(
        self,
        on_change: Callable[[ServingCert], None] = lambda _: None,
        clock: Callable[[], datetime] = utc_now,
        policy: TlsPolicy = DEFAULT_POLICY,
    ) -> None:
        """There is no certificate yet, and every handshake fails; ``on_change`` hears of each."""
        self.waiting = "no certificate has been looked for yet"
        """Why there is none yet, for those who ask for the replica's readiness."""
        self._on_change = on_change
        self._clock = clock
        self._current: ServingCert | None = None
        self._fresh: ssl.SSLContext | None = None
        self._policy = policy
        # The first context says already whether a client has to show a certificate: OpenSSL does
        # not take that over from the one that it is given during the handshake.
        self.context = empty_context(policy)
        """What the server is given, once."""
        self.context.sni_callback = self._choose

    @property
    def current(self) -> ServingCert | None:
        """The pair in use; None before the first."""
        return self._current

    def problem(self) -> str | None:
        """Why no client would accept a connection now; None where one would."""
        if self._current is None:
            return self.waiting
        return validity_problem(self._current, self._clock())

    def use(self, cert: ServingCert) -> bool:
        """Show this pair from now on; False where it is the one in use already.

        Raises:
            CertificateError: OpenSSL refuses it; the pair so far stays in use.
        """
        if self._current is not None and cert.pair == self._current.pair:
            return False
        self._fresh = server_context(cert, self._policy)
        self._current = cert
        self._on_change(cert)
        return True

    def _choose(
        self, connection: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _first: ssl.SSLContext
    ) -> int | None:
        # OpenSSL asks at each handshake, whether or not the client sent a name.
        if self._fresh is None:
            return ssl.ALERT_DESCRIPTION_INTERNAL_ERROR
        connection.context = self._fresh
        return None
