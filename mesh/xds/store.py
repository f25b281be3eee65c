"""What is served, by key, and who is to hear of it when it changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from mesh.xds.messages import Key, Resource


class Watcher(Protocol):
    """Hears that a resource has changed, or is gone."""

    def notify(self, key: Key) -> None:
        """Ask the source what it is now."""


class Source(Protocol):
    """Where a session takes its resources from."""

    def get(self, key: Key) -> Resource | None:
        """The resource as it is now; None where nobody knows it, or not yet."""

    def subscribe(self, key: Key, watcher: Watcher) -> None:
        """Tell the watcher of each change from now on."""

    def unsubscribe(self, key: Key, watcher: Watcher) -> None:
        """Tell it no more."""


class Store:
    """Resources in memory. Nothing is in it that nobody put there: who owns it may ask to hear
    which keys are wanted, and fill it on demand."""

    def __init__(
        self,
        on_wanted: Callable[[Key], None] | None = None,
        on_unwanted: Callable[[Key], None] | None = None,
    ) -> None:
        """``on_wanted`` hears of a key's first watcher, ``on_unwanted`` that the last has gone."""
        self._resources: dict[Key, Resource] = {}
        self._watchers: dict[Key, set[Watcher]] = {}
        self._on_wanted = on_wanted
        self._on_unwanted = on_unwanted

    def __len__(self) -> int:
        """How many resources are in it."""
        return len(self._resources)

    def get(self, key: Key) -> Resource | None:
        """As `Source`."""
        return self._resources.get(key)

    def resources(self) -> tuple[Resource, ...]:
        """All that are in it."""
        return tuple(self._resources.values())

    def is_wanted(self, key: Key) -> bool:
        """Whether anybody watches it."""
        return key in self._watchers

    def wanted(self) -> tuple[Key, ...]:
        """All that somebody watches."""
        return tuple(self._watchers)

    def put(self, resource: Resource) -> bool:
        """Serve the resource; True where it is new, or of another version than before."""
        before = self._resources.get(resource.key)
        if before is not None and before.version == resource.version:
            return False
        self._resources[resource.key] = resource
        self._changed(resource.key)
        return True

    def remove(self, key: Key) -> None:
        """Serve it no more. Clients that have it are told so: for a Cluster in use that means
        refused requests, so put another in its place instead."""
        if self._resources.pop(key, None) is not None:
            self._changed(key)

    def forget(self, key: Key) -> None:
        """Drop what nobody watches, without a word."""
        if key not in self._watchers:
            self._resources.pop(key, None)

    def subscribe(self, key: Key, watcher: Watcher) -> None:
        """As `Source`."""
        watchers = self._watchers.get(key)
        if watchers is not None:
            watchers.add(watcher)
            return
        self._watchers[key] = {watcher}
        if self._on_wanted is not None:
            self._on_wanted(key)

    def unsubscribe(self, key: Key, watcher: Watcher) -> None:
        """As `Source`."""
        watchers = self._watchers.get(key)
        if watchers is None:
            return
        watchers.discard(watcher)
        if not watchers:
            del self._watchers[key]
            if self._on_unwanted is not None:
                self._on_unwanted(key)

    def _changed(self, key: Key) -> None:
        for watcher in tuple(self._watchers.get(key, ())):
            watcher.notify(key)
