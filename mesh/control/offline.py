"""The world from a file of objects, read again when it changes: for trials without a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import structlog

from mesh.control.catalog import Catalog
from mesh.model.values import Ref
from mesh.model.world import Touched, World
from mesh.sources.kubernetes import read_pod, read_service, read_slice
from process.background import Work
from process.files import FileError, read_documents
from process.health import Check

_LOOK_SECONDS = 0.05

_log = structlog.get_logger()


class OfflineFeed:
    """As `mesh.control.feed.Feed`, of a kubectl List."""

    def __init__(self, path: Path, trust_domain: str) -> None:
        """Read it.

        Raises:
            FileError: it is not usable.
        """
        self._path = path
        self.world = World()
        self.catalog = Catalog(self.world, trust_domain, lambda _: "")
        self._puts: dict[str, tuple[Callable[[bytes], Any], Callable[[Ref, Any], Touched]]] = {
            "Service": (read_service, self.world.put_service),
            "EndpointSlice": (read_slice, self.world.put_slice),
            "Pod": (read_pod, self.world.put_workload),
        }
        self._known: dict[tuple[str, Ref], Any] = {}
        self._read()
        self._seen = self._stamp()

    @property
    def checks(self) -> Mapping[str, Check]:
        """It is always ready."""
        return {}

    @property
    def work(self) -> Mapping[str, Work]:
        """Looks whether the file has changed."""
        return {"objects": self._watch}

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            stamp = self._stamp()
            if stamp != self._seen:
                self._seen = stamp
                try:
                    self._read()
                except FileError as error:
                    _log.warning("the objects so far stay in use", error=str(error))

    def _stamp(self) -> tuple[int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino

    def _read(self) -> None:
        found: dict[tuple[str, Ref], Any] = {}
        for document in read_documents(self._path):
            items = document.get("items") if isinstance(document, dict) else None
            for item in items if isinstance(items, list) else [document]:
                kind = item.get("kind", "") if isinstance(item, dict) else ""
                if kind in self._puts:
                    ref, value = self._decoded(kind, item)
                    found[kind, ref] = value
        gone = dict.fromkeys(self._known.keys() - found.keys())
        for (kind, ref), value in (*gone.items(), *found.items()):
            if self._known.get((kind, ref)) != value:
                self.catalog.apply(self._puts[kind][1](ref, value))
        self._known = found

    def _decoded(self, kind: str, item: Any) -> tuple[Ref, Any]:
        try:
            pair: tuple[Ref, Any] = self._puts[kind][0](msgspec.json.encode(item))
        except (msgspec.DecodeError, TypeError) as error:
            raise FileError(f"{self._path}: a {kind} is not understood: {error}") from error
        return pair
