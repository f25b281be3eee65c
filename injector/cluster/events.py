"""Kubernetes Events about injections: where they go to, best effort."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import structlog

from injector.core.model import Event, Outcome, Owner
from injector.core.skips import SkipReason

_log = structlog.get_logger()


class EventSink(Protocol):
    """Takes events for an owner. Must neither wait nor raise: a pod is waiting."""

    def send(self, namespace: str, owner: Owner, events: Sequence[Event]) -> None:
        """Queue the events for an owner in that namespace; never called for a dry run."""


def wanted_events(outcome: Outcome) -> Sequence[Event]:
    """The outcome's events, unless nobody asked for a proxy, neither at the pod nor its namespace.

    Linkerd sends those too, so that each workload of a cluster collects events about a mesh
    that it never heard of.
    """
    return () if SkipReason.ENABLE_ABSENT in outcome.reasons else outcome.events


class LoggedEvents:
    """Where there is no API server to take events, they go to the log (level debug)."""

    def send(self, namespace: str, owner: Owner, events: Sequence[Event]) -> None:
        """Log each event."""
        for event in events:
            _log.debug(
                "event",
                reason=event.reason,
                note=event.message,
                namespace=namespace,
                ownerKind=owner.kind,
                ownerName=owner.name,
            )
