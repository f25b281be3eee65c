"""Metrics about the injector's own CA: does somebody look after it, and does that succeed."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge

Written = Literal["ca", "certificate", "ca_bundle"]


class Reloads(Protocol):
    """What the process counts beside: what was taken up anew; with the registry for the rest."""

    @property
    def registry(self) -> CollectorRegistry:
        """Where metrics are registered."""

    def reload_ok(self, what: Literal["certificate"], *, changed: bool) -> None:
        """It was read without a fault."""


class CertMetrics:
    """What is counted where the injector issues for itself; on the process's registry."""

    def __init__(self, registry: CollectorRegistry, prefix: str = "proxy_inject") -> None:
        """Register the metrics, whose names begin with ``prefix``."""
        self._ca_expiry = Gauge(
            f"{prefix}_ca_expiry_timestamp_seconds",
            "When the CA that signs the serving certificate expires, as Unix time.",
            registry=registry,
        )
        self._writes = Counter(
            f"{prefix}_certificate_writes",
            "CAs and serving certificates issued, and times the caBundles were written, here.",
            ("what",),
            registry=registry,
        )
        for what in ("ca", "certificate", "ca_bundle"):
            self._writes.labels(what)
        self._holder = Gauge(
            f"{prefix}_certificate_lease_held",
            "1 on the replica that looks after certificates.",
            registry=registry,
        )
        self._failing = Gauge(
            f"{prefix}_certificate_failing",
            "1 while this replica cannot read or renew the certificates; its log says why.",
            registry=registry,
        )

        self._away = Gauge(
            f"{prefix}_was_away_seconds",
            "For how long no replica ran, before this one took over; 0 where some always did.",
            registry=registry,
        )

    def was_away(self, seconds: float) -> None:
        """No replica ran for so long."""
        self._away.set(seconds)

    def ca_expires(self, at: datetime) -> None:
        """Tell when the CA expires."""
        self._ca_expiry.set(at.timestamp())

    def wrote(self, what: Written) -> None:
        """Something was written."""
        self._writes.labels(what).inc()

    def holds(self, held: bool) -> None:
        """Whether this replica holds the Lease."""
        self._holder.set(held)

    def failing(self, failing: bool) -> None:
        """Whether the last look or write failed."""
        self._failing.set(failing)
