"""Which replica acts: the one that holds a Lease of coordination.k8s.io/v1, as client-go elects.

What the holder writes is guarded by resourceVersions all the same, so that two that both take
themselves for the holder do no harm: the Lease spares work and conflicts, no more.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog

from kubeapi.client import ApiServer, ApiServerError
from kubeapi.events import About, Reporter, event_object
from kubeapi.objects import ObjectRef, read, write

DURATION_SECONDS = 30
"""Others take the Lease over when its holder has not renewed it for so long."""
RENEW_SECONDS = 10.0
"""How often it is renewed, or looked at by the others: a few writes a minute for all replicas."""
RELEASE_SECONDS = 2.0
"""What giving it up may take at the end of the process."""

AWAY_SECONDS = 90.0
"""For longer than this nobody renews it only while no replica runs at all."""
WAS_AWAY = "meshgraft.io/was-away"
"""Annotation of the Lease: since when and until when no replica ran, the last time."""

_log = structlog.get_logger()


class _Spec(msgspec.Struct, frozen=True, rename="camel"):
    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None


class _Lease(msgspec.Struct, frozen=True):
    metadata: dict[str, Any] = {}
    spec: _Spec = _Spec()


@dataclass(frozen=True, slots=True)
class Seen:
    """A record of the Lease, and for how long it has not changed by our own clock.

    The times in the record are of the holder's clock, which may be another.
    """

    holder: str
    duration: float
    unchanged_seconds: float


def may_take(seen: Seen, identity: str) -> bool:
    """Whether ``identity`` may write its name: it is there already, or none is, or it is stale."""
    return seen.holder in ("", identity) or seen.unchanged_seconds >= seen.duration


def gap(renewed: str | None, now: datetime) -> float:
    """Seconds since it was renewed; 0 where that is not known. Clocks of two nodes are compared:
    good enough for minutes."""
    try:
        return (now - datetime.fromisoformat(renewed or "")).total_seconds()
    except (ValueError, TypeError):
        return 0.0


class Lease:
    """One replica's part in the election; `run` takes part."""

    def __init__(self, api: ApiServer, ref: ObjectRef, identity: str) -> None:
        """``identity`` is the pod's name."""
        self._api = api
        self._ref = ref
        self._identity = identity
        self.on_change: Callable[[bool], None] = lambda _: None
        """Hears of gain and loss."""
        self.on_away: Callable[[float], None] = lambda _: None
        """Hears for how many seconds no replica ran, from the first that does again."""
        self._held_until = 0.0
        self._was_held = False
        self._record: _Spec | None = None
        self._record_since = 0.0
        self.holder = ""
        """Who holds it, as last seen."""

    @property
    def held(self) -> bool:
        """Whether this replica holds it now: it gives up some time before others take over."""
        return time.monotonic() < self._held_until

    async def run(self) -> None:
        """Take it or look at it, for ever; give it up when cancelled."""
        try:
            while True:
                await self._try()
                self._tell()
                # Others than the holder come at odd times, so that they do not come together.
                spread = 1.0 if self.held else random.uniform(0.8, 1.2)  # noqa: S311
                await asyncio.sleep(RENEW_SECONDS * spread)
        finally:
            await self._release()

    def _tell(self) -> None:
        if self.held != self._was_held:
            self._was_held = self.held
            _log.info("lease held" if self.held else "lease lost", lease=str(self._ref))
            self.on_change(self.held)

    async def _try(self) -> None:
        begun = time.monotonic()
        try:
            async with asyncio.timeout(RENEW_SECONDS):
                taken = await self._take()
            self._held_until = begun + DURATION_SECONDS - RENEW_SECONDS if taken else 0.0
        except (ApiServerError, TimeoutError) as error:
            if isinstance(error, ApiServerError) and error.status == 409:
                self._held_until = 0.0  # another was quicker
                return
            # Anything else may pass before our time is over.
            _log.warning(
                "lease not renewed" if self.held else "lease not taken",
                lease=str(self._ref),
                error=str(error) or f"no answer within {RENEW_SECONDS:g} s",
            )

    async def _take(self) -> bool:
        found = await self._read()
        if found is None:
            await self._write(_Lease({"namespace": self._ref.namespace, "name": self._ref.name}))
            return True
        if not may_take(self._seen(found.spec), self._identity):
            return False
        await self._write(found)
        return True

    async def _read(self) -> _Lease | None:
        found = await read(self._api, self._ref)
        if found is None:
            return None
        try:
            return msgspec.convert(found, _Lease)
        except msgspec.ValidationError as error:
            raise ApiServerError(f"{self._ref} is not understood: {error}") from error

    def _seen(self, spec: _Spec) -> Seen:
        now = time.monotonic()
        if spec != self._record:
            self._record, self._record_since = spec, now
        self.holder = spec.holder_identity or ""
        duration = float(spec.lease_duration_seconds or DURATION_SECONDS)
        return Seen(self.holder, duration, now - self._record_since)

    async def _write(self, lease: _Lease) -> None:
        """Write our name into it; a Lease that is not there yet has no resourceVersion."""
        moment = datetime.now(UTC)
        now = moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
        before, metadata = lease.spec, lease.metadata
        ours = before.holder_identity == self._identity
        away = 0.0 if ours else gap(before.renew_time, moment)
        if away > AWAY_SECONDS:
            noted = {WAS_AWAY: f"{before.renew_time}/{now}"}
            metadata = {**metadata, "annotations": {**(metadata.get("annotations") or {}), **noted}}
        spec = _Spec(
            holder_identity=self._identity,
            lease_duration_seconds=DURATION_SECONDS,
            acquire_time=before.acquire_time if ours else now,
            renew_time=now,
            lease_transitions=(before.lease_transitions or 0) + (0 if ours else 1),
        )
        await write(self._api, self._ref, _as_object(metadata, spec))
        self.holder = self._identity
        if away > AWAY_SECONDS:
            _log.warning(
                "no injector ran: pods that were created meanwhile may have no proxy; "
                "meshgraft audit -A finds them",
                seconds=round(away),
                since=before.renew_time,
            )
            self.on_away(away)
            await self._announce(metadata, away, moment)

    async def _announce(self, metadata: dict[str, Any], away: float, now: datetime) -> None:
        """An Event for whoever was not looking then; best effort."""
        about = About(
            api_version="coordination.k8s.io/v1",
            kind="Lease",
            namespace=self._ref.namespace,
            name=self._ref.name,
            uid=str(metadata.get("uid") or ""),
        )
        event = event_object(
            about,
            Reporter("linkerd-proxy-injector", self._identity),
            now,
            kind="Warning",
            reason="InjectorWasAway",
            message=f"No injector ran for {away:.0f} s. Pods that were created meanwhile may have "
            "no proxy (failurePolicy Ignore): meshgraft audit -A finds them.",
        )
        try:
            await self._api.post(f"api/v1/namespaces/{self._ref.namespace}/events", event)
        except ApiServerError as error:
            _log.info("event not sent", reason="InjectorWasAway", error=str(error))

    async def _release(self) -> None:
        """Leave no name in it, so that the next need not wait until it is stale."""
        if not self.held:
            return
        self._held_until = 0.0
        try:
            async with asyncio.timeout(RELEASE_SECONDS):
                found = await self._read()
                if found is not None and found.spec.holder_identity == self._identity:
                    spec = msgspec.structs.replace(found.spec, holder_identity="")
                    await write(self._api, self._ref, _as_object(found.metadata, spec))
        except (ApiServerError, TimeoutError) as error:
            _log.warning("lease not given up", lease=str(self._ref), error=str(error))


def _as_object(metadata: dict[str, Any], spec: _Spec) -> dict[str, Any]:
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": metadata,
        "spec": msgspec.to_builtins(spec),
    }
