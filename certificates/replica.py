"""What one replica runs for certificates of its own: two watches, the Lease, and the keeper."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable, Mapping

import msgspec

from certificates.authority import Policy
from certificates.keeper import Clock, Keeper, Kept
from certificates.lease import Lease
from certificates.live import LiveCertificate
from certificates.metrics import CertMetrics, Reloads
from certificates.secret import Held
from kubeapi.client import METADATA, METADATA_LIST, ApiServer
from kubeapi.objects import ObjectRef
from kubeapi.reflector import Collection, Reflector
from process.background import Work


def identity() -> str:
    """The name that this replica writes into the Lease: its pod's."""
    return os.environ.get("POD_NAME") or f"{socket.gethostname()}_{uuid.uuid4().hex[:8]}"


def work_of_replica(
    api: ApiServer,
    kept: Kept,
    policy: Policy,
    live: LiveCertificate,
    metrics: Reloads,
    *,
    name: str,
    clock: Clock | None = None,
    on_held: Callable[[Held], None] = lambda _: None,
    prefix: str = "proxy_inject",
) -> Mapping[str, Work]:
    """Everything that has to run, by its name for the log. ``name`` is the replica's; ``prefix``
    begins the metrics' names."""
    cert_metrics = CertMetrics(metrics.registry, prefix)
    lease = Lease(api, kept.lease, name) if kept.lease else None
    keeper = Keeper(
        api,
        kept,
        policy,
        live,
        may_act=(lambda: lease.held) if lease else (lambda: True),
        metrics=metrics,
        cert_metrics=cert_metrics,
        clock=clock,
        on_held=on_held,
    )
    work: dict[str, Work] = {"certificates": keeper.run}
    for ref in (kept.secret, kept.configuration):
        work[ref.kind.plural] = Changes(api, ref, keeper.wake).run
    if lease is None:
        cert_metrics.holds(True)
        return work

    def lease_changed(held: bool) -> None:
        cert_metrics.holds(held)
        keeper.wake()

    lease.on_change = lease_changed
    lease.on_away = cert_metrics.was_away
    return {**work, "lease": lease.run}


class _Meta(msgspec.Struct, frozen=True, rename="camel"):
    name: str = ""
    resource_version: str = ""


class _Object(msgspec.Struct, frozen=True):
    metadata: _Meta = _Meta()


def _read(content: bytes) -> tuple[str, str]:
    meta = msgspec.json.decode(content, type=_Object).metadata
    return meta.name, meta.resource_version


class Changes:
    """A watch of one object that calls whenever it may have changed; its content is not sent."""

    def __init__(self, api: ApiServer, ref: ObjectRef, changed: Callable[[], None]) -> None:
        """Nothing is watched before `run`."""
        self._changed = changed
        self._name = ref.name
        self._version: str | None = None
        collection = Collection(
            what=str(ref),
            path=ref.collection,
            read=_read,
            accept=METADATA,
            accept_list=METADATA_LIST,
            params=ref.selector,
        )
        self._reflector: Reflector[str, str] = Reflector(api, collection, self)
        self.run: Work = self._reflector.run

    def in_touch(self, known: int) -> None:  # noqa: ARG002, an Observer's
        """Called at each line of the watch, though a bookmark is no change."""
        version = self._reflector.get(self._name)
        if version != self._version:
            self._version = version
            self._changed()

    def watch_failed(self, cause: str) -> None:
        """The reflector logs it and tries again; the keeper looks from time to time meanwhile."""
