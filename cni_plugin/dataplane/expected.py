"""Remembers which rules belong to which network namespace, from ADDs and from repairs, and which
pod an ADD was for.

Keyed by the namespace itself and its age, as the kernel uses inode numbers again. Bounded.
"""

from __future__ import annotations

import os
import threading

from cachetools import LRUCache

from cni_plugin.dataplane.backends import Backend
from cni_plugin.dataplane.rules import is_allowed
from vocabulary.annotations.redirect import Redirect

KEPT = 1024

Key = tuple[int, int, int]
"""Device, inode and time of change of a namespace."""


def key_of(netns_fd: int) -> Key:
    """What tells an open namespace from any other, earlier ones too."""
    status = os.fstat(netns_fd)
    return status.st_dev, status.st_ino, status.st_ctime_ns


class Expected:
    """For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._redirects: LRUCache[Key, Redirect] = LRUCache(KEPT)
        self._homes: LRUCache[str, Key] = LRUCache(KEPT)
        self._uids: LRUCache[Key, str] = LRUCache(KEPT)

    def put(self, netns_fd: int, redirect: Redirect) -> None:
        """The namespace's rules shall be these; more than are ever set are not kept."""
        if not is_allowed(redirect):
            return
        with self._lock:
            self._redirects[key_of(netns_fd)] = redirect

    def get(self, key: Key) -> Redirect | None:
        """What its rules shall be, if that is known."""
        with self._lock:
            found: Redirect | None = self._redirects.get(key)
            return found

    def live_in(self, uid: str, netns_fd: int) -> None:
        """An ADD for the pod with this uid named this namespace: the runtime knows whose it is."""
        key = key_of(netns_fd)
        with self._lock:
            self._homes[uid] = key
            self._uids[key] = uid

    def home_of(self, uid: str) -> Key | None:
        """The namespace of the pod, if an ADD named it."""
        with self._lock:
            found: Key | None = self._homes.get(uid)
            return found

    def inhabitant_of(self, key: Key) -> str | None:
        """The uid of the pod whose namespace this is, if an ADD said so."""
        with self._lock:
            found: str | None = self._uids.get(key)
            return found


class RememberingBackend:
    """A `Backend` that remembers what it was asked to apply; all work is the inner one's."""

    def __init__(self, inner: Backend, expected: Expected) -> None:
        self._inner = inner
        self._expected = expected

    @property
    def name(self) -> str:
        return self._inner.name

    def apply(self, netns_fd: int, redirect: Redirect) -> bool:
        """As the inner one; it is remembered before, so that nobody is told of older rules."""
        self._expected.put(netns_fd, redirect)
        return self._inner.apply(netns_fd, redirect)

    def remove(self, netns_fd: int) -> bool:
        """As the inner one."""
        return self._inner.remove(netns_fd)

    def difference(self, netns_fd: int, redirect: Redirect) -> str | None:
        """As the inner one."""
        return self._inner.difference(netns_fd, redirect)
