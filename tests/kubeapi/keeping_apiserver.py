"""The fake API server, which also keeps what is written: Secrets, Leases, webhook configurations.

Writes are guarded by resourceVersions as by a real one: of two writers at once one gets a 409.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from tests.kubeapi.fake_apiserver import Asked, FakeApiServer, Object, _send

_KEPT = ("secrets", "leases", "mutatingwebhookconfigurations")


def _split(path: str) -> tuple[str, str] | None:
    """The collection of a path, and the name if there is one; None for what is not kept here."""
    before, _, last = path.rpartition("/")
    if last in _KEPT:
        return path, ""
    return (before, last) if before.rpartition("/")[2] in _KEPT else None


@dataclass
class KeepingApiServer(FakeApiServer):
    """`kept` may be read and changed by tests; `change` tells watches of it."""

    kept: dict[str, Object] = field(default_factory=dict)
    """Objects by their path."""
    on_change: Callable[[str, Object | None], None] = lambda _path, _obj: None
    """Hears of each change, whoever made it."""
    _told: list[tuple[int, str, str]] = field(default_factory=list)
    _listeners: list[tuple[str, asyncio.Queue[str | None]]] = field(default_factory=list)

    def change(self, path: str, obj: Object | None) -> Object | None:
        """Put the object in place, or delete it (None); watches hear of it."""
        before = self.kept.get(path)
        self._version += 1
        if obj is None:
            self.kept.pop(path, None)
            event, told = "DELETED", before
        else:
            name = path.rpartition("/")[2]
            meta = {"uid": f"u{self._version}", "name": name, **obj.get("metadata", {})}
            obj = {**obj, "metadata": {**meta, "resourceVersion": str(self._version)}}
            self.kept[path] = told = obj
            event = "MODIFIED" if before else "ADDED"
        self.on_change(path, self.kept.get(path))
        line = json.dumps({"type": event, "object": told})
        self._told.append((self._version, path, line))
        for asked_path, queue in self._listeners:
            if asked_path == path:
                queue.put_nowait(line)
        return obj

    def end_watches(self) -> None:
        """End them in good order, as at their time-out."""
        super().end_watches()
        for _, queue in self._listeners:
            queue.put_nowait(None)

    async def _answer(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        split = _split(asked.path)
        if split is None:
            await super()._answer(asked, writer)
        elif asked.is_watch:
            await self._watch_kept(asked, writer)
        elif asked.method in ("POST", "PUT"):
            await self._write(asked, split, writer)
        elif split[1]:
            await _reply(writer, 200, self.kept.get(asked.path))
        else:
            found = self.kept.get(_selected(asked))
            meta = {"resourceVersion": str(self._version)}
            # A real one sends null for an empty list of metadata.
            items = [found] if found else None
            await _reply(writer, 200, {"kind": "List", "metadata": meta, "items": items})

    async def _write(
        self, asked: Asked, split: tuple[str, str], writer: asyncio.StreamWriter
    ) -> None:
        obj = json.loads(asked.body)
        path = f"{split[0]}/{obj['metadata']['name']}"
        before = self.kept.get(path)
        if (asked.method == "PUT") != (before is not None):
            await _refuse(writer, 409 if before else 404)
        elif before and before["metadata"]["resourceVersion"] != obj["metadata"]["resourceVersion"]:
            await _refuse(writer, 409)
        else:
            await _reply(writer, 200 if before else 201, self.change(path, obj))

    async def _watch_kept(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        path, queue = _selected(asked), asyncio.Queue[str | None]()
        since = int(asked.query["resourceVersion"])
        for version, told, line in self._told:
            if version > since and told == path:
                queue.put_nowait(line)
        listener = (path, queue)
        self._listeners.append(listener)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while (told_or_end := await queue.get()) is not None:
                chunk = told_or_end.encode() + b"\n"
                writer.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
                await writer.drain()
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        finally:
            self._listeners.remove(listener)


def _selected(asked: Asked) -> str:
    """The one object that a list or watch is about: RBAC by resourceNames allows no other."""
    field_name, _, name = asked.query["fieldSelector"].partition("=")
    assert field_name == "metadata.name"
    return f"{asked.path}/{name}"


async def _refuse(writer: asyncio.StreamWriter, code: int) -> None:
    message = {404: "not found", 409: "the object has been modified"}[code]
    status = {"kind": "Status", "code": code, "message": message}
    await _send(writer, code, json.dumps(status).encode())


async def _reply(writer: asyncio.StreamWriter, code: int, obj: Object | None) -> None:
    if obj is None:
        await _refuse(writer, 404)
    else:
        await _send(writer, code, json.dumps(obj).encode())


@contextlib.asynccontextmanager
async def keeping(**given: Any) -> AsyncIterator[KeepingApiServer]:
    """A server that is listening, and gone afterwards."""
    server = KeepingApiServer(**given)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
