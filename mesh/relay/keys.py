"""A pod's key and certificate: made on the node, signed by identity, renewed in time.

The key is in this process's memory and in Envoy's, and nowhere else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog
from cryptography import x509
from grpclib.client import UnaryUnaryMethod
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError

from certificates.x509 import key_pem
from mesh.rpc.channel import NotReadyError, Peer
from mesh.rpc.identity import SIGN_POD, PodRequest, Signed
from mesh.rpc.requests import new_request
from process.backoff import Backoff
from vocabulary.handover import Opened

RENEW_AFTER = 0.7
"""Of its life a certificate has behind it when the next one is asked for."""
_ANSWER_SECONDS = 10.0
_FAILURES = (GRPCError, ProtocolError, StreamTerminatedError, NotReadyError, OSError, TimeoutError)

_log = structlog.get_logger()

Sign = Callable[[PodRequest], Awaitable[Signed]]


@dataclass(frozen=True, slots=True)
class Credentials:
    """A certificate with its chain, its key, and the roots that came with it; all PEM."""

    chain: bytes
    key: bytes
    roots: bytes
    not_before: datetime
    not_after: datetime

    def renew_in(self, now: datetime) -> float:
        """Seconds until the next one is to be asked for; 0 where that is now."""
        due = self.not_before + (self.not_after - self.not_before) * RENEW_AFTER
        return max(0.0, (due - now).total_seconds())


async def sign_by(peer: Peer, request: PodRequest) -> Signed:
    """Ask identity.

    Raises:
        GRPCError: it refused.
        NotReadyError, OSError, TimeoutError: it cannot be asked now.
    """
    async with asyncio.timeout(_ANSWER_SECONDS), peer() as (channel, metadata):
        method = UnaryUnaryMethod(channel, SIGN_POD, PodRequest, Signed)
        answer: Signed = await method(request, metadata=metadata)
        return answer


async def obtain(sign: Sign, pod: Opened) -> Credentials:
    """A new key, and a certificate for it.

    Raises:
        GRPCError, NotReadyError, OSError, TimeoutError: as `sign_by`.
    """
    key, request = new_request()
    asked = PodRequest(pod.namespace, pod.name, pod.uid, request)
    signed = await sign(asked)
    leaf = x509.load_pem_x509_certificate(signed.chain)
    return Credentials(
        chain=signed.chain,
        key=key_pem(key),
        roots=signed.roots,
        not_before=leaf.not_valid_before_utc,
        not_after=leaf.not_valid_after_utc,
    )


class Keeping:
    """Keeps one pod's credentials fresh; `run` works until it is cancelled."""

    def __init__(
        self,
        pod: Opened,
        sign: Sign,
        use: Callable[[Credentials], None],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """``use`` takes each new pair."""
        self._pod = pod
        self._sign = sign
        self._use = use
        self._clock = clock
        self._again = asyncio.Event()
        self.problem: str | None = "its certificate has been asked for"
        """Why the pod has no fresh certificate; None where it has."""
        self.not_after: datetime | None = None

    def renew(self) -> None:
        """Ask for another one now: the roots have changed, say."""
        self._again.set()

    async def run(self) -> None:
        """Obtain and renew; what fails is logged once, and tried again."""
        backoff = Backoff(first=0.1, longest=30.0)
        about = f"{self._pod.namespace}/{self._pod.name}"
        while True:
            try:
                credentials = await obtain(self._sign, self._pod)
            except _FAILURES as error:
                seconds = backoff.next()
                text = getattr(error, "message", None) or str(error) or type(error).__name__
                if self.problem != text:
                    _log.warning("no certificate", pod=about, error=text)
                self.problem = text
            else:
                backoff.reset()
                self.problem = None
                self.not_after = credentials.not_after
                self._use(credentials)
                seconds = credentials.renew_in(self._clock())
                until = credentials.not_after.isoformat()
                _log.info("certificate in use", pod=about, uid=self._pod.uid, notAfter=until)
            self._again.clear()
            try:
                async with asyncio.timeout(max(seconds, 0.05)):
                    await self._again.wait()
            except TimeoutError:
                continue
