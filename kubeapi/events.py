"""An Event about an object, as the API server takes it and ``kubectl describe`` shows it.

Source: core/v1 Event; client-go's EventRecorder, which names and fills them so.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from kubeapi.reading import Object

_MAX_NAME = 253
_MAX_MESSAGE = 1024
"""In bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """The object that an Event is about; by its uid ``kubectl describe`` finds the Event."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Reporter:
    """Who reports: the component, and which instance of it (its own name where none is known)."""

    component: str
    instance: str = ""


def event_object(
    about: About,
    by: Reporter,
    now: datetime,
    *,
    kind: Literal["Normal", "Warning"],
    reason: str,
    message: str,
    action: str = "",
) -> Object:
    """The Event; its message is cut to what the API server takes."""
    # As client-go names them: the object, and the time as hexadecimal nanoseconds.
    suffix = f".{time.time_ns():x}"
    at = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": about.name[: _MAX_NAME - len(suffix)].rstrip(".-") + suffix,
            "namespace": about.namespace,
        },
        "involvedObject": {
            "apiVersion": about.api_version,
            "kind": about.kind,
            "name": about.name,
            "namespace": about.namespace,
            "uid": about.uid,
        },
        "reason": reason,
        **({"action": action} if action else {}),
        "message": message.encode()[:_MAX_MESSAGE].decode(errors="ignore"),
        "type": kind,
        "source": {"component": by.component},
        "reportingComponent": by.component,
        "reportingInstance": by.instance or by.component,
        "firstTimestamp": at,
        "lastTimestamp": at,
        "count": 1,
    }
