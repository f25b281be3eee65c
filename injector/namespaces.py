"""Every namespace of the cluster, kept up to date in memory: one list, and then watches.

What is kept of each is its name and the annotations and labels of our vocabulary, so that a
cluster of 20,000 namespaces stays small. Source: Kubernetes API concepts, "Efficient detection
of changes", "Watch bookmarks", "Metadata-only fetches".
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from contextlib import aclosing
from typing import TypeVar

import msgspec
import structlog

from injector.apiserver import (
    ANSWER_SECONDS,
    METADATA,
    METADATA_LIST,
    ApiServer,
    ApiServerError,
    Backoff,
    Status,
)
from injector.cluster_metrics import ClusterMetrics
from injector.model import Namespace

PAGE = 500
"""Namespaces in one answer, so that a list's memory is bounded too."""
WATCH_SECONDS = (240, 300)
"""How long one watch lasts; drawn anew each time, so that replicas do not all come at once."""
MISTRUST = 5
"""After so many failures in a row the version itself is in doubt, and a list is due: it may be of
a future that a restored backup of etcd does not know."""
_GONE = 410
"""The history from our version on is no longer kept."""
_SETTLED_SECONDS = 2 * ANSWER_SECONDS
"""A watch that lasted this long was a good one, even if nothing happened: one that never began
ends earlier."""
_PATH = "api/v1/namespaces"
_DOMAINS = ("linkerd.io", "meshgraft.io")
_NOTHING: Mapping[str, str] = {}
_T = TypeVar("_T")

_log = structlog.get_logger()


class _Meta(msgspec.Struct, frozen=True, rename="camel"):
    name: str = ""
    resource_version: str = ""
    annotations: dict[str, str] | None = None
    labels: dict[str, str] | None = None


class NamespaceObject(msgspec.Struct, frozen=True):
    """A Namespace, or its metadata alone, as the API server sends it."""

    metadata: _Meta = _Meta()

    def slim(self) -> Namespace:
        """What is worth keeping."""
        meta = self.metadata
        return Namespace(meta.name, _ours(meta.annotations), _ours(meta.labels))


class _ListMeta(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class _Page(msgspec.Struct, frozen=True):
    metadata: _ListMeta = _ListMeta()
    items: list[NamespaceObject] = []


class _WatchEvent(msgspec.Struct, frozen=True):
    type: str
    object: msgspec.Raw


def _ours(found: Mapping[str, str] | None) -> Mapping[str, str]:
    """The keys of our vocabulary, misspelt ones too: warnings tell of those."""
    kept = {key: text for key, text in (found or {}).items() if _is_ours(key)}
    return kept or _NOTHING


def _is_ours(key: str) -> bool:
    return key.partition("/")[0].endswith(_DOMAINS)


class Namespaces:
    """The namespaces that are known; `run` keeps them so."""

    def __init__(self, api: ApiServer, metrics: ClusterMetrics) -> None:
        """Nothing is known before `run` has made its first list."""
        self._api = api
        self._metrics = metrics
        self._known: dict[str, Namespace] = {}
        self._version = ""
        """Up to where the API server's history is known; empty: a list is due."""
        self._listed = False
        self._failure = "the first list is under way"

    def get(self, name: str) -> Namespace | None:
        """The namespace, from memory."""
        return self._known.get(name)

    def __len__(self) -> int:
        """How many are known."""
        return len(self._known)

    def problem(self) -> str | None:
        """Why the replica is not ready; None from the first complete list on, for good.

        What is known then goes on being of use while the API server is away: a replica that
        called itself unready for that would take every webhook away at once.
        """
        return None if self._listed else f"namespaces are not known yet: {self._failure}"

    async def run(self) -> None:
        """List and watch for ever; a failure is logged and tried again."""
        backoff = Backoff()
        while True:
            failure = await self._round(backoff)
            await self._pause(backoff, failure)

    async def _round(self, backoff: Backoff) -> ApiServerError | None:
        """A list if one is due, then one watch. A watch that was of use ends the backing off."""
        try:
            if not self._version:
                await self._list()
            begun, before = time.monotonic(), self._version
            try:
                await self._watch()
            finally:
                if time.monotonic() - begun >= _SETTLED_SECONDS or self._version != before:
                    backoff.reset()
        except ApiServerError as error:
            return error
        return None

    async def _pause(self, backoff: Backoff, failure: ApiServerError | None) -> None:
        """Wait a little, after a watch that ended well too: it may have ended at once."""
        if failure is None:
            await asyncio.sleep(backoff.next())
            return
        self._failure = str(failure)
        self._metrics.watch_failed(failure.status)
        seconds = backoff.next(failure.retry_after)
        if failure.status == _GONE or backoff.failures >= MISTRUST:
            self._version = ""
        _log.warning(
            "cannot watch namespaces",
            error=self._failure,
            known=len(self._known),
            retrySeconds=round(seconds, 2),
        )
        await asyncio.sleep(seconds)

    async def _list(self) -> None:
        """Take stock, and put it in place as a whole: until then, what was known counts."""
        found: dict[str, Namespace] = {}
        params: dict[str, str | int] = {"limit": PAGE}
        while True:
            page = _decode(await self._api.get(_PATH, accept=METADATA_LIST, params=params), _Page)
            if not page.metadata.resource_version:
                # Whoever answers in the API server's place must not empty the memory.
                raise ApiServerError("the API server's answer is not understood: it is no list")
            found.update((item.metadata.name, item.slim()) for item in page.items)
            if not page.metadata.continue_:
                break
            params["continue"] = page.metadata.continue_
        self._known, self._version = found, page.metadata.resource_version
        self._metrics.in_touch(len(found))
        if not self._listed:
            _log.info("namespaces listed", known=len(found))
        self._listed = True

    async def _watch(self) -> None:
        params = {"resourceVersion": self._version, "allowWatchBookmarks": "true"}
        seconds = random.randint(*WATCH_SECONDS)  # noqa: S311, this is no secret
        watch = self._api.watch(_PATH, accept=METADATA, params=params, seconds=seconds)
        async with aclosing(watch) as lines:
            async for line in lines:
                self._apply(_decode(line, _WatchEvent))
                self._metrics.in_touch(len(self._known))

    def _apply(self, event: _WatchEvent) -> None:
        if event.type == "ERROR":
            status = _decode(bytes(event.object), Status)
            raise ApiServerError(f"the watch ended: {status.message}", status=status.code)
        changed = _decode(bytes(event.object), NamespaceObject)
        name = changed.metadata.name
        if event.type in ("ADDED", "MODIFIED") and name:
            self._known[name] = changed.slim()
        elif event.type == "DELETED":
            self._known.pop(name, None)
        # A BOOKMARK is nothing but the version.
        self._version = changed.metadata.resource_version or self._version


def _decode(content: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeError) as error:
        # Something in between answers in the API server's place, or a line was cut off.
        raise ApiServerError(f"the API server's answer is not understood: {error}") from error
