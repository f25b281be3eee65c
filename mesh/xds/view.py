"""A source under other names: what one client calls by a short name is another for the next."""

from __future__ import annotations

from collections.abc import Callable

from mesh.xds.messages import Key, Resource
from mesh.xds.store import Source, Watcher


class _Outer:
    """Hears of a resource by its inner name, and passes on the outer."""

    def __init__(self, key: Key, watcher: Watcher) -> None:
        self.inner: Key
        self._key = key
        self._watcher = watcher

    def notify(self, key: Key) -> None:  # noqa: ARG002
        self._watcher.notify(self._key)


class View:
    """A `Source` whose keys are others within; ``inner`` says which."""

    def __init__(
        self,
        source: Source,
        inner: Callable[[Key], Key],
        permits: Callable[[Key], bool] = lambda _: True,
    ) -> None:
        """``inner`` may change its mind: then `remap` has to be called. What ``permits`` says no
        to is not there; it is asked each time that something is about to be said."""
        self._source = source
        self._inner = inner
        self._permits = permits
        self._watches: dict[tuple[Key, Watcher], _Outer] = {}

    def get(self, key: Key) -> Resource | None:
        """As `Source`."""
        if not self._permits(key):
            return None
        inner = self._inner(key)
        found = self._source.get(inner)
        return found if found is None or inner == key else found.renamed(key.name)

    def subscribe(self, key: Key, watcher: Watcher) -> None:
        """As `Source`."""
        outer = self._watches.setdefault((key, watcher), _Outer(key, watcher))
        outer.inner = self._inner(key)
        self._source.subscribe(outer.inner, outer)

    def unsubscribe(self, key: Key, watcher: Watcher) -> None:
        """As `Source`."""
        outer = self._watches.pop((key, watcher), None)
        if outer is not None:
            self._source.unsubscribe(outer.inner, outer)

    def remap(self) -> None:
        """What is within has another name now, for some keys: watch that, and tell."""
        for (key, watcher), outer in tuple(self._watches.items()):
            inner = self._inner(key)
            if inner != outer.inner:
                before, outer.inner = outer.inner, inner
                self._source.subscribe(inner, outer)
                self._source.unsubscribe(before, outer)
                if self._source.get(inner) is not None:
                    watcher.notify(key)
