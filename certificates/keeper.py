"""Keeps CA, serving certificate and caBundle as `authority` says: look, act, look again.

Every replica looks at the Secret and shows the certificate in it; the one that holds the Lease
writes. A look reads the webhook configuration before the Secret. So a caBundle is never replaced by
an older one: whoever changed it in between has changed its resourceVersion.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

import structlog

from certificates.authority import Policy, Step, Trust, View, decide, take
from certificates.ca_bundle import WEBHOOKS, Contest, Publication, last_writer
from certificates.live import LiveCertificate, utc_now
from certificates.metrics import CertMetrics, Reloads, Written
from certificates.secret import Held, read_held, write_held
from certificates.x509 import CertificateError, validity_problem
from kubeapi.client import ApiServer, ApiServerError
from kubeapi.objects import ObjectRef, parse_ref, read, write
from kubeapi.reading import LEASES, MUTATING_WEBHOOKS, SECRETS, Object
from process.backoff import Backoff

CONFLICT_SECONDS = 0.5
"""Somebody else has just written; what that changes is looked at after so long."""
CONTESTED = 3
"""Put back so often without a quiet time, the caBundle is what somebody else keeps writing."""
ENOUGH = 8
"""So many steps at a stretch are never due: the first start takes three."""
_DONE: dict[Step, str] = {
    "new-ca": "CA issued",
    "promote": "CA signs from now on",
    "renew": "certificate issued",
    "retire": "former CA retired",
}
_COUNTED: dict[Step, Written] = {"new-ca": "ca", "promote": "certificate", "renew": "certificate"}

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """The time, and one that is never set; tests let both run faster."""

    now: Callable[[], datetime] = utc_now
    steady: Callable[[], float] = time.monotonic
    """Seconds."""
    pace: float = 1.0
    """How many seconds of this clock go by in a real one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """The objects that the replicas share."""

    secret: ObjectRef
    configuration: ObjectRef
    lease: ObjectRef | None = None
    """None: there is one replica, which always acts."""
    publication: Publication = WEBHOOKS
    """How the CAs stand in ``configuration``."""


def parse_kept(secret: str, configuration: str, lease: str | None) -> Kept:
    """The objects that the flags mean: ``NAMESPACE/NAME`` of Secret and Lease, and a bare name.

    Raises:
        RefError: one of them is no such name.
    """
    return Kept(
        secret=parse_ref(secret, SECRETS),
        configuration=ObjectRef(MUTATING_WEBHOOKS, configuration),
        lease=parse_ref(lease, LEASES) if lease else None,
    )


class Keeper:
    """One replica's part in it; `run` takes part."""

    def __init__(
        self,
        api: ApiServer,
        kept: Kept,
        policy: Policy,
        live: LiveCertificate,
        *,
        may_act: Callable[[], bool],
        metrics: Reloads,
        cert_metrics: CertMetrics,
        clock: Clock | None = None,
        on_held: Callable[[Held], None] = lambda _: None,
    ) -> None:
        """``may_act`` tells whether this replica holds the Lease; ``on_held`` hears at each look
        what the Secret holds."""
        self._on_held = on_held
        self._api = api
        self._kept = kept
        self._policy = policy
        self._live = live
        self._may_act = may_act
        self._metrics = metrics
        self._cert_metrics = cert_metrics
        self._clock = clock or Clock()
        self._trust = Trust()
        self._contest = Contest()
        self._published: bytes | None = None
        self._remembered: Held | None = None
        self._complaint = ""
        self._steps = 0
        self._faults: tuple[str, ...] = ()
        self._woken = asyncio.Event()
        live.waiting = f"waiting for {kept.secret}, which one of the replicas writes"

    def wake(self) -> None:
        """Look now: something has changed."""
        self._woken.set()

    async def run(self) -> None:
        """Look and act for ever; a failure is logged and tried again."""
        backoff = Backoff()
        while True:
            self._woken.clear()
            try:
                seconds = self._braked(await self.look())
            except (ApiServerError, CertificateError) as error:
                self._complain(str(error))
                seconds = backoff.next(getattr(error, "retry_after", 0.0))
            else:
                self._complain("")
                backoff.reset()
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds / self._clock.pace):
                    await self._woken.wait()

    def _braked(self, seconds: float) -> float:
        self._steps = 0 if seconds else self._steps + 1
        if self._steps > ENOUGH:
            raise CertificateError(
                f"what is written to {self._kept.secret} or {self._kept.configuration} does not "
                "stay as it was written: see whether another webhook or a controller changes it"
            )
        return seconds

    async def look(self) -> float:
        """One look, and what it asks for; the seconds until the next.

        Raises:
            ApiServerError: the API server refused, or did not answer.
            CertificateError: the Secret is not ours, or its certificate is not usable, or there is
                no webhook configuration; the text says what to do.
        """
        may_act = self._may_act()
        configuration, refusal = await self._configuration() if may_act else (None, None)
        secret = await read(self._api, self._kept.secret)
        held = read_held(secret, str(self._kept.secret)) if secret else None
        problem = self._show(held)
        if not may_act:
            # Only an unbroken view of the caBundles tells for how long a CA has been trusted.
            self._trust = Trust()
            seconds = self._policy.look.total_seconds()
        else:
            seconds = await self._act(configuration, secret, held, blind=refusal is not None)
            if refusal:
                raise refusal
            if configuration is None:
                problem = f"there is no {self._kept.configuration}: create it, or name another"
        if problem and seconds:
            raise CertificateError(problem)
        return seconds

    async def _configuration(self) -> tuple[Object | None, ApiServerError | None]:
        """The webhook configuration, or why it cannot be read, which is no reason not to renew."""
        try:
            found = await read(self._api, self._kept.configuration)
            absent = self._kept.publication.absent
            return found or (absent(self._kept.configuration) if absent else None), None
        except ApiServerError as error:
            return None, error

    def _show(self, held: Held | None) -> str:
        """Take up what the Secret holds; why that cannot be, or nothing."""
        self._tell_faults(held.faults if held else ())
        if held is None or held.leaf is None:
            return ""
        if held.signer is not None:
            self._on_held(held)
            self._remembered = held
            self._cert_metrics.ca_expires(held.signer.certificate.not_valid_after_utc)
        problem = validity_problem(held.leaf, self._clock.now())
        if problem:
            return problem
        try:
            changed = self._live.use(held.leaf)
        except CertificateError as error:
            return str(error)
        if changed:
            self._metrics.reload_ok("certificate", changed=True)
            _log.info("certificate in use", notAfter=held.leaf.not_after.isoformat())
        return ""

    async def _act(
        self,
        configuration: Object | None,
        secret: Object | None,
        held: Held | None,
        *,
        blind: bool,
    ) -> float:
        """Do what is due; the seconds until the next look, 0 where something was done.

        ``blind``: what clients trust is not known, so that no CA can be made or changed over to.
        """
        found = self._kept.publication.bundles(configuration)
        view = View(
            held=held,
            bundles=found,
            trusted_for=self._trust.observe(found, self._clock.steady()),
            remembered=self._remembered,
        )
        now = self._clock.now()
        plan = decide(view, self._policy, now)
        step = plan.step if plan.step == "renew" or not blind else None
        # The two writes need not wait for each other: where one is refused, the other still counts.
        failures: list[ApiServerError] = []
        if step:
            content = take(step, view, self._policy, now)
            await _noting(failures, self._store(step, plan.why, secret, content))
        hold_back = self._contest.wait(self._clock.steady())
        if plan.publish is not None and configuration is not None and not hold_back:
            await _noting(failures, self._publish(configuration, plan.publish, found))
        if any(error.status != 409 for error in failures):
            raise next(error for error in failures if error.status != 409)
        if failures:
            return CONFLICT_SECONDS
        if step or (plan.publish is not None and not hold_back):
            return 0.0
        return min(plan.look_within.total_seconds(), hold_back or math.inf)

    async def _store(self, step: Step, why: str, secret: Object | None, content: Held) -> None:
        ref = self._kept.secret
        await write(self._api, ref, write_held(content, secret, ref.namespace, ref.name))
        if step in _COUNTED:
            self._cert_metrics.wrote(_COUNTED[step])
        _log.info(_DONE[step], why=why, secret=str(ref), trusted=len(content.trusted))

    async def _publish(
        self, configuration: Object, bundle: bytes, found: tuple[bytes, ...]
    ) -> None:
        ref = self._kept.configuration
        await write(self._api, ref, self._kept.publication.with_bundle(configuration, bundle))
        self._cert_metrics.wrote("ca_bundle")
        ours, self._published = self._published, bundle
        if ours is None or all(each == ours for each in found):
            _log.info("caBundle written", configuration=str(ref))
            return
        times = self._contest.written(self._clock.steady())
        tell = _log.info if times < CONTESTED else _log.warning
        writer = last_writer(configuration)
        tell("caBundle put back", configuration=str(ref), changedBy=writer, timesLately=times)

    def _tell_faults(self, faults: tuple[str, ...]) -> None:
        for fault in set(faults) - set(self._faults):
            _log.error("the Secret is damaged; what is left of it stays in use", error=fault)
        self._faults = faults

    def _complain(self, complaint: str) -> None:
        """Say it once; an empty text takes it back."""
        self._cert_metrics.failing(bool(complaint))
        if complaint and self._live.current is None:
            self._live.waiting = complaint
        if complaint != self._complaint:
            self._complaint = complaint
            if complaint:
                _log.error("certificates cannot be looked after", error=complaint)
            else:
                _log.info("certificates are looked after again")


async def _noting(failures: list[ApiServerError], work: Awaitable[None]) -> None:
    try:
        await work
    except ApiServerError as error:
        failures.append(error)
