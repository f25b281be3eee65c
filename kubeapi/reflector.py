"""A collection of the cluster's objects, kept up to date in memory: one list, and then watches.

What is kept of each object is its user's choice, so that memory stays small. Source: Kubernetes
API concepts, "Efficient detection of changes", "Watch bookmarks"; client-go calls it a reflector.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Hashable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import msgspec
import structlog

from kubeapi.client import ANSWER_SECONDS, ApiServer, ApiServerError, Status
from process.backoff import Backoff

PAGE = 500
"""Objects in one answer, so that a list's memory is bounded too."""
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

_log = structlog.get_logger()

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Collection(Generic[K, V]):
    """Which objects to keep, and what of them."""

    what: str
    """For the log: "namespaces"."""
    path: str
    read: Callable[[bytes], tuple[K, V]]
    """An object's JSON to its key and what is kept of it; raises msgspec.DecodeError."""
    accept: str = "application/json"
    """The form of an object in a watch."""
    accept_list: str = "application/json"
    """The form of a list."""
    params: Mapping[str, str] = field(default_factory=dict)
    """Selectors."""


class Observer(Protocol):
    """Hears how the watch fares, for metrics."""

    def in_touch(self, known: int) -> None:
        """The API server has just reported something; ``known`` objects are held."""

    def watch_failed(self, cause: str) -> None:
        """A list or watch failed; ``cause`` is `ApiServerError.cause`, one of a few words."""


class _ObjectMeta(msgspec.Struct, frozen=True, rename="camel"):
    name: str = ""
    resource_version: str = ""


class _Object(msgspec.Struct, frozen=True):
    metadata: _ObjectMeta = _ObjectMeta()


class _ListMeta(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class _Page(msgspec.Struct, frozen=True):
    metadata: _ListMeta = _ListMeta()
    items: list[msgspec.Raw] | None = None
    """An empty list of metadata has null here."""


class _WatchEvent(msgspec.Struct, frozen=True):
    type: str
    object: msgspec.Raw


class Reflector(Generic[K, V]):
    """The objects that are known; `run` keeps them so. They may be read from other threads."""

    def __init__(
        self,
        api: ApiServer,
        collection: Collection[K, V],
        observer: Observer,
        changed: Callable[[K, V | None], None] | None = None,
    ) -> None:
        """Nothing is known before `run` has made its first list. ``changed`` hears of each object
        that is not as it was, with what is kept of it now; None: it is gone."""
        self._changed = changed
        self._api = api
        self._collection = collection
        self._observer = observer
        self._known: dict[K, V] = {}
        self._version = ""
        """Up to where the API server's history is known; empty: a list is due."""
        self._listed = False
        self._failure = "the first list is under way"

    def get(self, key: K) -> V | None:
        """What is kept of the object, from memory."""
        return self._known.get(key)

    def known(self) -> tuple[V, ...]:
        """What is kept of all objects, as of now; for any thread."""
        return tuple(self._known.values())

    def __len__(self) -> int:
        """How many are known."""
        return len(self._known)

    def problem(self) -> str | None:
        """Why nothing is known yet; None from the first complete list on, for good.

        What is known then goes on being of use while the API server is away.
        """
        return (
            None if self._listed else f"{self._collection.what} are not known yet: {self._failure}"
        )

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
        self._observer.watch_failed(failure.cause)
        seconds = backoff.next(failure.retry_after)
        if failure.status == _GONE or backoff.failures >= MISTRUST:
            self._version = ""
        _log.warning(
            f"cannot watch {self._collection.what}",
            error=self._failure,
            known=len(self._known),
            retrySeconds=round(seconds, 2),
        )
        await asyncio.sleep(seconds)

    async def _list(self) -> None:
        """Take stock, and put it in place as a whole: until then, what was known counts."""
        wanted, found = self._collection, dict[K, V]()
        params: dict[str, str | int] = {**wanted.params, "limit": PAGE}
        while True:
            body = await self._api.get(wanted.path, accept=wanted.accept_list, params=params)
            page = _decode(body, _Page)
            if not page.metadata.resource_version:
                # Whoever answers in the API server's place must not empty the memory.
                raise ApiServerError("the API server's answer is not understood: it is no list")
            found.update(self._read(item) for item in page.items or ())
            if not page.metadata.continue_:
                break
            params["continue"] = page.metadata.continue_
        before, self._known = self._known, found
        self._version = page.metadata.resource_version
        if self._changed is not None:
            for key in before.keys() - found.keys():
                self._changed(key, None)
            for key, value in found.items():
                if key not in before or before[key] != value:
                    self._changed(key, value)
        self._observer.in_touch(len(found))
        if not self._listed:
            _log.info(f"{wanted.what} listed", known=len(found))
        self._listed = True

    async def _watch(self) -> None:
        wanted = self._collection
        params = {
            **wanted.params,
            "resourceVersion": self._version,
            "allowWatchBookmarks": "true",
        }
        seconds = random.randint(*WATCH_SECONDS)  # noqa: S311, this is no secret
        watch = self._api.watch(wanted.path, accept=wanted.accept, params=params, seconds=seconds)
        async with aclosing(watch) as lines:
            async for line in lines:
                self._apply(_decode(line, _WatchEvent))
                self._observer.in_touch(len(self._known))

    def _apply(self, event: _WatchEvent) -> None:
        if event.type == "ERROR":
            status = _decode(bytes(event.object), Status)
            raise ApiServerError(f"the watch ended: {status.message}", status=status.code)
        meta = _decode(bytes(event.object), _Object).metadata
        if event.type in ("ADDED", "MODIFIED") and meta.name:
            self._put(*self._read(event.object))
        elif event.type == "DELETED" and meta.name:
            key = self._read(event.object)[0]
            if self._known.pop(key, None) is not None and self._changed is not None:
                self._changed(key, None)
        # A BOOKMARK is nothing but the version.
        self._version = meta.resource_version or self._version

    def _put(self, key: K, value: V) -> None:
        before = self._known.get(key)
        self._known[key] = value
        if self._changed is not None and before != value:
            self._changed(key, value)

    def _read(self, content: msgspec.Raw) -> tuple[K, V]:
        try:
            return self._collection.read(bytes(content))
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise _not_understood(error) from error


def _decode(content: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise _not_understood(error) from error


def _not_understood(error: Exception) -> ApiServerError:
    """Something in between answers in the API server's place, or a line was cut off."""
    return ApiServerError(f"the API server's answer is not understood: {error}")
