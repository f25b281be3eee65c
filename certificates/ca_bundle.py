"""The caBundle of each webhook in a MutatingWebhookConfiguration: read, written, and contested."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kubeapi.objects import ObjectRef
from process.backoff import Backoff

Object = dict[str, Any]

QUIET_SECONDS = 300.0
"""A caBundle that stood for so long and is then overwritten is put back at once."""


def bundles(configuration: dict[str, Any] | None) -> tuple[bytes, ...]:
    """The caBundle of each webhook, as PEM; none where there is no configuration."""
    webhooks = (configuration or {}).get("webhooks") or []
    return tuple(
        _decode((each.get("clientConfig") or {}).get("caBundle") or "") for each in webhooks
    )


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return text.encode()


def with_bundle(configuration: dict[str, Any], bundle: bytes) -> dict[str, Any]:
    """The configuration with this caBundle at each webhook; nothing else of it changes."""
    text = base64.b64encode(bundle).decode()
    webhooks = [
        {**each, "clientConfig": {**(each.get("clientConfig") or {}), "caBundle": text}}
        for each in configuration.get("webhooks") or []
    ]
    return {**configuration, "webhooks": webhooks}


@dataclass(frozen=True, slots=True)
class Publication:
    """Where clients read whom to trust: how it stands there, and how it is written."""

    bundles: Callable[[Object | None], tuple[bytes, ...]]
    """What stands there now, as PEM, once for each place; none where there is no such object."""
    with_bundle: Callable[[Object, bytes], Object]
    """The object with this bundle in each place; nothing else of it changes."""
    absent: Callable[[ObjectRef], Object] | None = None
    """The object to create where there is none; None: somebody else has to."""


WEBHOOKS = Publication(bundles, with_bundle)
"""In each webhook of a MutatingWebhookConfiguration, which the charts make."""

_FILE = "ca-bundle.crt"
_LABELS = {"app.kubernetes.io/part-of": "meshgraft"}


def _roots(config_map: Object | None) -> tuple[bytes, ...]:
    return () if config_map is None else ((config_map.get("data") or {}).get(_FILE, "").encode(),)


def _with_roots(config_map: Object, bundle: bytes) -> Object:
    return {**config_map, "data": {**(config_map.get("data") or {}), _FILE: bundle.decode()}}


def _config_map(ref: ObjectRef) -> Object:
    meta = {"name": ref.name, "namespace": ref.namespace, "labels": _LABELS}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta}


CONFIG_MAP = Publication(_roots, _with_roots, _config_map)
"""In a ConfigMap under ``ca-bundle.crt``. Nobody renders it, so that nobody's sync empties it."""


def roots_of(config_map: Object | None) -> bytes:
    """The roots in a ConfigMap of this kind; empty where there are none."""
    return b"".join(_roots(config_map))


def last_writer(obj: dict[str, Any]) -> str:
    """Who changed the object last, by its managedFields ("helm", "argocd-controller")."""
    entries: list[dict[str, Any]] = obj.get("metadata", {}).get("managedFields") or [{}]
    latest = max(entries, key=lambda each: str(each.get("time") or ""))
    return str(latest.get("manager") or "unknown")


class Contest:
    """How soon a caBundle is written again that somebody else keeps overwriting.

    Seconds are of a steady clock.
    """

    def __init__(self) -> None:
        """Nothing has been put back yet."""
        self._backoff = Backoff(first=1.0)
        self._written_at = -QUIET_SECONDS
        self._not_before = 0.0

    def wait(self, seconds: float) -> float:
        """How long to hold back at this moment; 0: write now."""
        return max(0.0, self._not_before - seconds)

    def written(self, seconds: float) -> int:
        """Take note that it was put back; how often without a quiet time in between."""
        if seconds - self._written_at >= QUIET_SECONDS:
            self._backoff.reset()
        self._written_at = seconds
        # Once is nothing: a rollout does it. From the second on, each waits longer.
        wait = self._backoff.next()
        self._not_before = seconds + (wait if self._backoff.failures > 1 else 0.0)
        return self._backoff.failures
