"""The certificate of a server of the mesh itself: asked for of identity, and renewed in time."""

from __future__ import annotations

import asyncio
import time

import structlog
from grpclib.client import UnaryUnaryMethod
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError

from certificates.live import LiveCertificate, utc_now
from certificates.x509 import CertificateError, KeyPair, check_pair, key_pem
from mesh.rpc.channel import NotReadyError, Peer
from mesh.rpc.identity import SIGN_SERVER, ServerRequest, Signed
from mesh.rpc.requests import new_request
from process.backoff import Backoff

_RENEW_AFTER = 0.5
_LOOK_SECONDS = 1.0
_FAILURES = (
    *(GRPCError, ProtocolError, StreamTerminatedError),
    *(NotReadyError, CertificateError, OSError, TimeoutError),
)

_log = structlog.get_logger()


async def keep_certificate(live: LiveCertificate, identity: Peer) -> None:
    """Obtain and renew, for ever; until there is one, ``live`` says why not."""
    backoff = Backoff(first=0.2, longest=10.0)
    while True:
        try:
            seconds = await _renew(live, identity)
            backoff.reset()
        except _FAILURES as error:
            text = getattr(error, "message", None) or str(error) or type(error).__name__
            if live.waiting != text:
                _log.warning("no serving certificate", identity=identity.address, error=text)
            live.waiting = text
            seconds = backoff.next()
        await _until_due(identity, seconds)


async def _until_due(identity: Peer, seconds: float) -> None:
    """Wait so long, or until the roots are others: what the old signed may be worth nothing."""
    before, deadline = identity.roots(), time.monotonic() + seconds
    while time.monotonic() < deadline and identity.roots() == before:
        await asyncio.sleep(min(_LOOK_SECONDS, max(0.0, deadline - time.monotonic())))


async def _renew(live: LiveCertificate, identity: Peer) -> float:
    key, request = new_request()
    async with asyncio.timeout(10), identity() as (channel, metadata):
        method = UnaryUnaryMethod(channel, SIGN_SERVER, ServerRequest, Signed)
        signed: Signed = await method(ServerRequest(request), metadata=metadata)
    cert = check_pair(KeyPair(signed.chain, key_pem(key)), f"identity at {identity.address}")
    live.use(cert)
    _log.info("serving certificate in use", notAfter=cert.not_after.isoformat())
    life = cert.not_after - utc_now()
    return max(1.0, life.total_seconds() * _RENEW_AFTER)
