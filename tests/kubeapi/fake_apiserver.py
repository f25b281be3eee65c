"""An API server on loopback: lists, watches, single objects and Events, and faults on demand."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import jsonpatch
import yaml

Object = dict[str, Any]
NAMESPACES = "/api/v1/namespaces"
PODS = "/api/v1/pods"


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as it came in."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def is_watch(self) -> bool:
        return self.query.get("watch") == "1"

    @property
    def is_list(self) -> bool:
        return self.path in (NAMESPACES, PODS) and not self.is_watch


@dataclass(slots=True)
class Fault:
    """What happens to requests that match, instead of an answer, ``times`` times."""

    match: Callable[[Asked], bool]
    status: int = 0
    """0: the connection is dropped without a word."""
    retry_after: str = ""
    body: bytes = b'{"kind":"Status","message":"as the test wants it"}'
    times: int = 1
    until: asyncio.Event | None = None
    """Only hold the request back until then, and answer it as usual."""


@dataclass
class FakeApiServer:
    """State that tests change directly, behind a port that stays the same over restarts."""

    namespaces: dict[str, Object] = field(default_factory=dict)
    objects: dict[str, Object] = field(default_factory=dict)
    """Single objects (owners, pods) by their path."""
    asked: list[Asked] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    tls: ssl.SSLContext | None = None
    port: int = 0
    _version: int = 100
    _oldest: int = 100
    """Watches from before this version have expired."""
    _history: list[tuple[int, str]] = field(default_factory=list)
    _watches: list[asyncio.Queue[str | None]] = field(default_factory=list)
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def version(self) -> str:
        """Up to where watches have been told."""
        return str(self._version)

    @property
    def events(self) -> list[Object]:
        """The Events that were created."""
        posts = [asked for asked in self.asked if asked.method == "POST"]
        return [json.loads(asked.body) for asked in posts if asked.path.endswith("/events")]

    @property
    def watching(self) -> int:
        """How many watches are open."""
        return len(self._watches)

    def count(self, match: Callable[[Asked], bool]) -> int:
        """How many requests matched."""
        return sum(match(asked) for asked in self.asked)

    def kubeconfig(self, folder: Path, **cluster: str) -> Path:
        """A file whose current context is this server."""
        path = folder / "kubeconfig"
        tree = {
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": self.url, **cluster}}],
            "users": [{"name": "test", "user": {"token": "secret"}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        }
        path.write_text(yaml.safe_dump(tree))
        return path

    # What happens in the cluster

    def put(self, name: str, **annotations: str) -> None:
        """Make or change a namespace; watches hear of it."""
        kind = "MODIFIED" if name in self.namespaces else "ADDED"
        self._version += 1
        self.namespaces[name] = {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "name": name,
                "resourceVersion": str(self._version),
                "annotations": {key.replace("__", "/"): text for key, text in annotations.items()},
                "labels": {"kubernetes.io/metadata.name": name},
            },
        }
        self._tell(kind, self.namespaces[name])

    def delete(self, name: str) -> None:
        """Delete a namespace; watches hear of it."""
        self._version += 1
        gone = self.namespaces.pop(name)
        gone["metadata"]["resourceVersion"] = str(self._version)
        self._tell("DELETED", gone)

    def put_pod(self, name: str, *containers: str, **meta: Any) -> Object:
        """Make or change a pod ``NAMESPACE/NAME`` of node n1; ``node`` and ``init`` are options."""
        self._version += 1
        namespace, _, short = name.partition("/")
        node, init = meta.pop("node", "n1"), meta.pop("init", ())
        version = str(self._version)
        path = f"{NAMESPACES}/{namespace}/pods/{short}"
        kind = "MODIFIED" if path in self.objects else "ADDED"
        self.objects[path] = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": short, "namespace": namespace, "resourceVersion": version, **meta},
            "spec": {
                "nodeName": node,
                "containers": [{"name": each, "image": "i"} for each in containers],
                "initContainers": [{"name": each, "image": "i"} for each in init],
            },
            "status": {"phase": "Pending"},
        }
        self._tell(kind, self.objects[path])
        return self.objects[path]

    def delete_pod(self, name: str) -> None:
        """Delete a pod; watches hear of it."""
        self._version += 1
        namespace, _, short = name.partition("/")
        gone = self.objects.pop(f"{NAMESPACES}/{namespace}/pods/{short}")
        gone["metadata"]["resourceVersion"] = str(self._version)
        self._tell("DELETED", gone)

    def bookmark(self) -> None:
        """Tell watches how far they have come, after a change elsewhere in the cluster."""
        self._version += 1
        meta = {"resourceVersion": str(self._version)}
        line = json.dumps({"type": "BOOKMARK", "object": {"metadata": meta}})
        for queue in self._watches:
            queue.put_nowait(line)

    def forget_history(self) -> None:
        """Expire every version there was: as compaction does, or a restart."""
        self._version += 1
        self._oldest = self._version
        self._history.clear()

    def say(self, line: str) -> None:
        """Send this line to all watches."""
        for queue in self._watches:
            queue.put_nowait(line)

    def end_watches(self) -> None:
        """End them in good order, as at their time-out."""
        for queue in self._watches:
            queue.put_nowait(None)

    def drop_connections(self) -> None:
        """Break every connection."""
        for writer in list(self._writers):
            writer.transport.abort()
        self.end_watches()  # wakes those who would write

    def _tell(self, kind: str, obj: Object) -> None:
        line = json.dumps({"type": kind, "object": obj})
        self._history.append((self._version, line))
        self.say(line)

    # The server

    async def start(self) -> None:
        """Listen; on the same port as before, if there was one."""
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, ssl=self.tls, reuse_address=True
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Go away in the middle of everything."""
        assert self._server is not None
        self._server.close()
        self.drop_connections()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            # Cancelled: the test's loop ends, and asyncio would complain of a task that says so.
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while True:
                    asked = await _read(reader)
                    self.asked.append(asked)
                    if not await self._faulty(asked, writer):
                        await self._answer(asked, writer)
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _faulty(self, asked: Asked, writer: asyncio.StreamWriter) -> bool:
        for fault in self.faults:
            if not fault.times or not fault.match(asked):
                continue
            fault.times -= 1
            if fault.until is not None:
                await fault.until.wait()
                return False
            if not fault.status:
                raise ConnectionAbortedError
            headers = {"Retry-After": fault.retry_after} if fault.retry_after else {}
            await _send(writer, fault.status, fault.body, headers)
            return True
        return False

    async def _answer(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        if asked.method == "POST":
            await _send(writer, 201, asked.body)
        elif asked.method == "PATCH":
            await self._patch(asked, writer)
        elif asked.is_watch:
            await self._watch(asked, writer)
        elif asked.is_list:
            await _send(writer, 200, json.dumps(self._page(asked)).encode())
        else:
            await self._single(asked, writer)

    async def _patch(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        """Apply a JSON patch to a single object, wholly or not at all, as the API server."""
        if asked.path not in self.objects:
            await _send(writer, 404, b'{"kind":"Status","code":404,"message":"not found"}')
            return
        try:
            patched = jsonpatch.apply_patch(self.objects[asked.path], json.loads(asked.body))
        except jsonpatch.JsonPatchException as error:
            status = {"kind": "Status", "code": 422, "message": str(error)}
            await _send(writer, 422, json.dumps(status).encode())
            return
        self.objects[asked.path] = patched
        await _send(writer, 200, json.dumps(patched).encode())

    async def _single(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        name = asked.path.removeprefix(f"{NAMESPACES}/")
        found = self.objects.get(asked.path) or self.namespaces.get(name)
        if found is None:
            await _send(writer, 404, b'{"kind":"Status","code":404,"message":"not found"}')
        else:
            await _send(writer, 200, json.dumps(found).encode())

    def _page(self, asked: Asked) -> Object:
        found = self._listed(asked)
        begin = int(asked.query.get("continue", "0"))
        end = begin + int(asked.query["limit"])
        more = {"continue": str(end)} if end < len(found) else {}
        return {
            "kind": "List",
            "metadata": {"resourceVersion": str(self._version), **more},
            "items": found[begin:end],
        }

    def _listed(self, asked: Asked) -> list[Object]:
        if asked.path == NAMESPACES:
            return [self.namespaces[name] for name in sorted(self.namespaces)]
        pods = [each for each in self.objects.values() if each.get("kind") == "Pod"]
        return [pod for pod in pods if _is_meant(pod, asked)]

    async def _watch(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        since = int(asked.query["resourceVersion"])
        if since < self._oldest:
            await _send(writer, 410, b'{"kind":"Status","code":410,"message":"too old"}')
            return
        queue: asyncio.Queue[str | None] = asyncio.Queue()
        for version, line in self._history:
            if version > since:
                queue.put_nowait(line)
        self._watches.append(queue)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while (line_or_end := await queue.get()) is not None:
                if not _is_meant(_object_of(line_or_end), asked):
                    continue
                chunk = line_or_end.encode() + b"\n"
                writer.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
                await writer.drain()
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        finally:
            self._watches.remove(queue)


def _object_of(line: str) -> Any:
    try:
        return json.loads(line)["object"]
    except (ValueError, LookupError, TypeError):
        return None  # the test's own nonsense is for everybody


def _is_meant(thing: Any, asked: Asked) -> bool:
    """Whether a list or watch asks for it, by its path and its fieldSelector."""
    kind = thing.get("kind") if isinstance(thing, dict) else None
    if kind not in ("Namespace", "Pod"):
        return True
    if asked.path == NAMESPACES or kind == "Namespace":
        return asked.path == NAMESPACES and kind == "Namespace"
    return asked.query.get("fieldSelector") in (None, f"spec.nodeName={thing['spec']['nodeName']}")


async def _read(reader: asyncio.StreamReader) -> Asked:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.strip().split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): text for name, _, text in (line.partition(": ") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    parts = urlsplit(target)
    return Asked(method, unquote(parts.path), dict(parse_qsl(parts.query)), headers, body)


async def _send(
    writer: asyncio.StreamWriter, status: int, body: bytes, headers: dict[str, str] | None = None
) -> None:
    lines = [f"HTTP/1.1 {status} As it is", "Content-Type: application/json"]
    lines += [f"{name}: {text}" for name, text in (headers or {}).items()]
    lines += [f"Content-Length: {len(body)}", "", ""]
    writer.write("\r\n".join(lines).encode() + body)
    await writer.drain()


@contextlib.asynccontextmanager
async def running(**given: Any) -> AsyncIterator[FakeApiServer]:
    """A server that is listening, and gone afterwards."""
    server = FakeApiServer(**given)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait for it.

    Raises:
        TimeoutError: it did not come true in time.
    """
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)
