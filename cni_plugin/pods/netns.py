"""Finds a pod's network namespace among those mounted under /run/netns: by what an ADD said of the
pod's uid, and else by its addresses.

What it hands out is proven on the spot: it has all of the pod's addresses, it is neither the node's
nor our own; and where no ADD is remembered, no other namespace has any of them (a pod may give
itself its neighbours' addresses), and the pod's status is newer than it. The open
descriptor then keeps it the same one, whatever happens to its name.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cni_plugin.dataplane.addresses import IPAddress, addresses
from cni_plugin.dataplane.errors import NetnsError
from cni_plugin.dataplane.netns import CLONE_NEWNET, OWN_NETNS, identity, open_netns
from cni_plugin.pods.source import Pod
from cni_plugin.pods.status import addresses as pod_addresses
from cni_plugin.pods.status import is_about, node_addresses

RUN_NETNS = Path("/run/netns")
_NS_GET_NSTYPE = 0xB703
_LIST_SECONDS = 1.0
"""How long the list of namespaces is believed, for finding; what is found is asked again."""
_FRESH_SECONDS = 30.0
"""The same, for the addresses of a namespace."""
_STALE = (
    "the pod's status in the API tells of nothing since {path} was made, which has its address "
    "now: it may be of an earlier sandbox, and the address another pod's"
)

Read = Callable[[int], frozenset[IPAddress]]
Identity = tuple[int, int, int]
"""Device, inode and time of change of a namespace."""


class NetnsNotFoundError(Exception):
    """No namespace is certainly the pod's; the text says why, for an operator."""

    reason = "not-found"


class AmbiguousNetnsError(NetnsNotFoundError):
    """More than one namespace, or more than one pod, has the address."""

    reason = "ambiguous"


@dataclass(frozen=True, slots=True)
class _Key:
    """One namespace at one path: the kernel uses inode numbers again."""

    path: Path
    device: int
    inode: int
    changed: int

    @property
    def identity(self) -> Identity:
        """The namespace, whatever its path is."""
        return self.device, self.inode, self.changed


@dataclass(slots=True)
class _Seen:
    addresses: frozenset[IPAddress]
    at: float


class PodNetns:
    """The namespaces of a folder, with what was last seen in them; for one thread."""

    def __init__(
        self,
        folder: Path = RUN_NETNS,
        read: Read = addresses,
        clock: Callable[[], float] = time.monotonic,
        home_of: Callable[[str], Identity | None] = lambda _: None,
    ) -> None:
        """``read`` tells the addresses of an open namespace, ``home_of`` which one an ADD named for
        the pod with a uid."""
        self._home_of = home_of
        self._folder = folder
        self._read = read
        self._clock = clock
        self._seen: dict[_Key, _Seen] = {}
        self._unusable = 0
        """Entries that are no namespaces, at the last look."""
        self._listed_at = -math.inf

    @contextmanager
    def opened(self, pod: Pod, *, fresh: bool = False) -> Iterator[int]:
        """A descriptor of the pod's namespace, for the body.

        ``fresh`` is for when something is about to be changed: all namespaces are asked anew
        whether they have the pod's addresses, and its status must be newer than the namespace.

        Raises:
            NetnsNotFoundError: there is none that is certainly the pod's.
        """
        wanted = pod_addresses(pod)
        home = self._home(pod)
        key = home or self._found(wanted, fresh=fresh)
        try:
            fd = open_netns(str(key.path))
        except NetnsError as error:
            raise NetnsNotFoundError(str(error)) from error
        try:
            self._prove(fd, key, pod, wanted)
            if fresh and not home and not is_about(pod, os.fstat(fd).st_ctime, time.time()):
                raise NetnsNotFoundError(_STALE.format(path=key.path))
            yield fd
        finally:
            os.close(fd)

    def knows(self, pod: Pod) -> bool:
        """Whether an ADD said which namespace is the pod's."""
        return self._home(pod) is not None

    def _home(self, pod: Pod) -> _Key | None:
        """The namespace that an ADD named for the pod, if it is still there."""
        identity_ = self._home_of(pod.metadata.uid) if pod.metadata.uid else None
        if identity_ is None:
            return None
        if not any(key.identity == identity_ for key in self._seen):
            self._look(_FRESH_SECONDS)
        return next((key for key in self._seen if key.identity == identity_), None)

    def _found(self, wanted: frozenset[IPAddress], *, fresh: bool) -> _Key:
        """The only namespace with any of the addresses; by memory, where that is enough."""
        if not fresh:
            if self._clock() - self._listed_at >= _LIST_SECONDS:
                self._look(_FRESH_SECONDS)
            with contextlib.suppress(NetnsNotFoundError):
                return self._the_one(wanted)
        self._look(0.0)
        return self._the_one(wanted)

    def _look(self, age: float) -> None:
        """Bring what is known up to date: new entries, gone ones, and those of this age."""
        found: dict[_Key, _Seen] = {}
        self._unusable = 0
        for path in self._paths():
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            except OSError:
                self._unusable += 1
                continue
            try:
                self._see(path, fd, age, found)
            except (NetnsError, OSError):
                self._unusable += 1
            finally:
                os.close(fd)
        self._seen = found
        self._listed_at = self._clock()

    def _paths(self) -> list[Path]:
        try:
            return sorted(self._folder.iterdir())
        except OSError as error:
            raise NetnsNotFoundError(
                f"cannot look through {self._folder}: {error.strerror}; the agent's container "
                "must have the node's /run/netns there, with mountPropagation HostToContainer"
            ) from error

    def _see(self, path: Path, fd: int, age: float, found: dict[_Key, _Seen]) -> None:
        key = _key(path, fd)
        before = self._seen.get(key)
        if before is not None and self._clock() - before.at < age:
            found[key] = before
        elif not _is_netns(fd):
            self._unusable += 1
        elif identity(fd) != _own() and not any(_same(key, other) for other in found):
            found[key] = _Seen(self._read(fd), self._clock())

    def _the_one(self, wanted: frozenset[IPAddress]) -> _Key:
        """The only namespace with any of the addresses.

        Raises:
            NetnsNotFoundError: there is none, or more than one.
        """
        having = [key for key, seen in self._seen.items() if wanted & seen.addresses]
        if len(having) > 1:
            paths = " and ".join(str(key.path) for key in having)
            raise AmbiguousNetnsError(
                f"more than one network namespace has {_listed(wanted)}: {paths}; one may be left "
                "over from a pod that is gone, so none of them is touched"
            )
        if not having:
            raise NetnsNotFoundError(
                f"none of {len(self._seen)} network namespaces in {self._folder} has "
                f"{_listed(wanted)}{self._about_unusable()}"
            )
        return having[0]

    def _about_unusable(self) -> str:
        if not self._unusable:
            return ""
        return (
            f", and {self._unusable} entries there are no namespaces that can be entered: is "
            "it mounted with mountPropagation HostToContainer?"
        )

    def _prove(self, fd: int, key: _Key, pod: Pod, wanted: frozenset[IPAddress]) -> None:
        """Raises NetnsNotFoundError unless this open namespace is certainly the pod's."""
        if _key(key.path, fd) != key or not _is_netns(fd) or identity(fd) == _own():
            raise NetnsNotFoundError(f"{key.path} has just become something else")
        try:
            has = self._read(fd)
        except NetnsError as error:
            raise NetnsNotFoundError(f"{key.path}: {error}") from error
        self._seen[key] = _Seen(has, self._clock())
        if not wanted <= has:
            raise NetnsNotFoundError(
                f"{key.path} has not all of the pod's addresses ({_listed(wanted)}) but "
                f"{_listed(has)}: it is another pod's, or the pod's network is changing"
            )
        if node_addresses(pod) & has:
            raise NetnsNotFoundError(f"{key.path} is the node's own network, which is not touched")


def _key(path: Path, fd: int) -> _Key:
    status = os.fstat(fd)
    return _Key(path, status.st_dev, status.st_ino, status.st_ctime_ns)


def _same(one: _Key, other: _Key) -> bool:
    """Whether they are one namespace, mounted at two paths."""
    return (one.device, one.inode) == (other.device, other.inode)


def _is_netns(fd: int) -> bool:
    try:
        return fcntl.ioctl(fd, _NS_GET_NSTYPE) == CLONE_NEWNET
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EINVAL, errno.EOPNOTSUPP, errno.EISDIR):
            return False
        raise


def _own() -> tuple[int, int]:
    status = Path(OWN_NETNS).stat()
    return status.st_dev, status.st_ino


def _listed(found: frozenset[IPAddress]) -> str:
    return ", ".join(sorted(map(str, found))) or "no address"
