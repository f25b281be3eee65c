"""A certificate that lives in a folder: mounted, and waited for; or our own, and renewed in time.

The process that issued a pair keeps its CA's key in memory, and nowhere else. So it renews with the
same CA; a later process has to make a new CA, which it does as late as it can, because ``ca.crt``
is carried to the webhook configuration by hand.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import structlog
from cryptography import x509
from cryptography.x509.oid import NameOID

from certificates.live import LiveCertificate, utc_now
from certificates.x509 import (
    CA_NAME,
    LEAF_LIFETIME,
    LEAF_NAME,
    Authority,
    CertificateError,
    ServingCert,
    is_issued_by,
    issue_authority,
    issue_serving,
    load,
    write_pair,
)

_FILES = ("tls.crt", "tls.key")
_EARLY, _LATE = LEAF_LIFETIME / 3, timedelta(days=1)
"""What is left of a certificate's life when it is renewed: by its own CA, and by a new one."""

_log = structlog.get_logger()


class CertFolder:
    """The folder of ``--cert-dir``, and the certificate in use that follows it."""

    def __init__(
        self,
        folder: Path,
        sans: Sequence[str],
        live: LiveCertificate,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        """``sans`` are the names for a certificate of our own."""
        self._folder = folder
        self._sans = sans
        self._live = live
        self._clock = clock
        self._authority: Authority | None = None

    def start(self) -> None:
        """Put the folder's pair to use; issue one into a folder without, where we may write.

        A mounted folder that holds none yet, or only half of one, is no error: the replica is not
        ready, says so, and goes on looking.

        Raises:
            CertificateError: the pair that is there is not usable.
            FileError: the folder cannot be made.
        """
        missing = self._missing()
        if len(missing) == len(_FILES) and self._may_write():
            self._issue(self._clock())
        elif missing:
            self._live.waiting = f"waiting for {' and '.join(missing)} in {self._folder}"
            _log.warning(f"not ready: {self._live.waiting}")
            return
        self._live.use(load(self._folder, self._clock()))

    def reload(self) -> bool:
        """Renew what is our own, and take up what the folder holds now; True where it is new.

        Raises:
            CertificateError: it is not usable; the pair so far stays in use.
            FileError: the folder cannot be written to.
        """
        current, now = self._live.current, self._clock()
        if current is None and self._missing():
            return False
        if current is not None and self._is_due(current, now):
            self._issue(now)
        try:
            return self._live.use(load(self._folder, now))
        except CertificateError as error:
            if current is None:
                self._live.waiting = str(error)
            raise

    def _missing(self) -> list[str]:
        return [name for name in _FILES if not (self._folder / name).exists()]

    def _is_due(self, cert: ServingCert, now: datetime) -> bool:
        """Whether it is ours to renew, and time to: a pair put in place by others is theirs."""
        known = self._authority is not None and is_issued_by(
            cert.certificate, self._authority.certificate
        )
        if now < cert.not_after - (_EARLY if known else _LATE):
            return False
        return _is_ours(cert.certificate) and self._is_unchanged(cert) and self._may_write()

    def _is_unchanged(self, cert: ServingCert) -> bool:
        try:
            return (self._folder / "tls.crt").read_bytes() == cert.pair.certificate
        except OSError:
            return False

    def _may_write(self) -> bool:
        return not self._folder.exists() or os.access(self._folder, os.W_OK)

    def _issue(self, now: datetime) -> None:
        before = self._live.current
        also_trusted = b""
        if self._authority is None:
            self._authority = issue_authority(now)
            also_trusted = _file_or_nothing(self._folder / "ca.crt") if before else b""
            if before is not None:
                _log.warning(
                    "a new CA was needed: put ca.crt, which holds the old one too, into caBundle",
                    folder=str(self._folder),
                )
        pair = issue_serving(self._authority, self._sans, now)
        write_pair(self._folder, self._authority, pair, also_trusted)
        _log.info("certificate issued", folder=str(self._folder), notAfter=now + LEAF_LIFETIME)


def _is_ours(certificate: x509.Certificate) -> bool:
    names = (certificate.subject, certificate.issuer)
    found = [name.get_attributes_for_oid(NameOID.COMMON_NAME) for name in names]
    return [[each.value for each in one] for one in found] == [[LEAF_NAME], [CA_NAME]]


def _file_or_nothing(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
