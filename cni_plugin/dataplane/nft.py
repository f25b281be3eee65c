"""The nftables backend: one atomic netlink transaction in the pod's namespace, no program run."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager

from cni_plugin.dataplane import nft_encode
from cni_plugin.dataplane.errors import DataplaneError, NftError
from cni_plugin.dataplane.netns import OWN_NETNS, netfilter_socket, open_netns
from cni_plugin.dataplane.nft_decode import (
    NLM_F_DUMP_INTR,
    NLMSG_DONE,
    NLMSG_ERROR,
    Message,
    Reply,
    TableState,
    difference,
    messages,
    reply,
    table_state,
)
from cni_plugin.dataplane.nft_encode import TABLE, Batch, Plan
from cni_plugin.dataplane.nft_sets import GETSET, GETSETELEM, dump_body
from cni_plugin.dataplane.rules import MAX_ITEMS
from vocabulary.annotations.redirect import Redirect

_TIMEOUT = 10.0
"""Seconds. The kernel answers before send returns; this guards against a bug, there or here."""
_ATTEMPTS = 5
_PASSING = (errno.ENOBUFS, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.EBUSY)
_RECEIVE = 1 << 16
_SOL_NETLINK, _NETLINK_CAP_ACK, _NETLINK_EXT_ACK = 270, 10, 11
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_SMALL_BATCH = 1 << 16
_MOST_OBJECTS = 4 * MAX_ITEMS
"""More than any rules of ours have. A pod with NET_ADMIN may put millions into our table: what is
beyond this is not kept, and what is left differs from ours as well."""
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_GETTABLE, _GETCHAIN, _GETRULE = 0xA01, 0xA04, 0xA07
_NFPROTO_INET = 1


class _RefusedError(Exception):
    """The kernel's first error about a transaction or request."""

    def __init__(self, answer: Reply, about: str) -> None:
        detail = f" ({answer.text})" if answer.text else ""
        super().__init__(f"{about}: {os.strerror(answer.errno)}{detail}")
        self.errno = answer.errno
        self.about_table = answer.sequence == 1
        """Every transaction of ours opens with the table itself."""


class NftBackend:
    """Keeps a pod's rules in the table ``inet meshgraft`` of its own namespace."""

    @property
    def name(self) -> str:
        return "nft"

    def apply(self, netns_fd: int, redirect: Redirect) -> bool:
        """Make the rules those of ``redirect``; rules that are right already keep their counters.

        Raises:
            DataplaneError: nothing was changed.
        """
        plan = nft_encode.plan(redirect)
        with _opened(netns_fd, "set the rules") as sock:
            for _ in range(_ATTEMPTS):
                if _committed(sock, plan.create, unless=errno.EEXIST):
                    return True
                if _read_twice(sock, plan) == plan.state:
                    return False
                if _committed(sock, plan.replace, unless=errno.ENOENT):
                    return True
        raise NftError(
            f"cannot set the rules: something else makes and deletes table inet {TABLE} "
            "in this namespace at the same time; find out what else uses that name"
        )

    def remove(self, netns_fd: int) -> bool:
        """Delete our table. False where there was none."""
        with _opened(netns_fd, "remove the rules") as sock:
            return _committed(sock, nft_encode.removal(), unless=errno.ENOENT)

    def difference(self, netns_fd: int, redirect: Redirect) -> str | None:
        """The first difference between the table and what it should be, or None."""
        plan = nft_encode.plan(redirect)
        with _opened(netns_fd, "read the rules") as sock:
            return difference(plan.state, _read_twice(sock, plan), TABLE)


def unavailable() -> str | None:
    """None where this kernel has all that we use of nftables, else what it lacks.

    Asks the kernel itself, by a transaction that is never committed, in the caller's namespace.

    Raises:
        DataplaneError: it cannot be told now. A kernel short of memory for a moment must not turn
            a node over to the other backend.
    """
    try:
        fd = open_netns(OWN_NETNS)
        try:
            with _opened(fd, "try nftables") as sock:
                _commit(sock, nft_encode.probe())
        finally:
            os.close(fd)
    except DataplaneError as error:
        cause = error.__cause__
        if isinstance(cause, TimeoutError) or getattr(cause, "errno", None) in _PASSING:
            raise
        return str(error)
    return None


@contextmanager
def _opened(netns_fd: int, doing: str) -> Iterator[socket.socket]:
    """A socket into the namespace; what goes wrong on it becomes an `NftError`."""
    with closing(netfilter_socket(netns_fd)) as sock:
        sock.settimeout(_TIMEOUT)
        try:
            sock.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
            sock.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
            yield sock
        except (_RefusedError, OSError, ValueError) as error:
            raise NftError(f"cannot {doing} with nftables: {_explained(error)}") from error


def _explained(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"the kernel did not answer within {_TIMEOUT:g} s"
    number = getattr(error, "errno", None)
    if number == errno.ENOBUFS:
        return "the kernel's answer was lost (no buffer space); try again, applying is idempotent"
    if number in (errno.EPERM, errno.EACCES):
        return f"{error}; CAP_NET_ADMIN is needed"
    if number in (errno.EOPNOTSUPP, errno.EAFNOSUPPORT, errno.ENOENT):
        return f"{error}; the kernel lacks it (Linux 5.2 or newer is needed), or its module"
    return str(error)


def _committed(sock: socket.socket, batch: Batch, unless: int) -> bool:
    """Commit. False where the kernel refused the table itself with the errno ``unless``."""
    try:
        _commit(sock, batch)
    except _RefusedError as error:
        if error.about_table and error.errno == unless:
            return False
        raise
    return True


def _commit(sock: socket.socket, batch: Batch) -> None:
    """Send one transaction and wait for its acknowledgement: all of it holds then, or nothing.

    Raises:
        _RefusedError: names the first object that the kernel refused.
    """
    _make_room(sock, len(batch.data))
    sock.send(batch.data)
    for message in _received(sock):
        if message.type != NLMSG_ERROR:
            continue
        answer = reply(message)
        if answer.errno:
            about = batch.objects[answer.sequence] if answer.sequence <= batch.last else "?"
            _drain(sock)
            raise _RefusedError(answer, about)
        if answer.sequence == batch.last:
            return


def _make_room(sock: socket.socket, size: int) -> None:
    """A long batch needs a longer send buffer, and may be answered by one error per message."""
    if size > _SMALL_BATCH:
        _set_buffer(sock, _SO_SNDBUFFORCE, socket.SO_SNDBUF, 2 * size)
        _set_buffer(sock, _SO_RCVBUFFORCE, socket.SO_RCVBUF, 8 * size)


def _set_buffer(sock: socket.socket, force: int, within_limit: int, size: int) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, force, size)
    except PermissionError:  # an init container in a user namespace of its own
        sock.setsockopt(socket.SOL_SOCKET, within_limit, size)


def _received(sock: socket.socket) -> Iterator[Message]:
    while True:
        yield from messages(sock.recv(_RECEIVE))


def _drain(sock: socket.socket) -> None:
    """Throw away the other errors of a refused transaction; all of them are here already."""
    sock.settimeout(0)
    try:
        while True:
            sock.recv(_RECEIVE)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.ENOBUFS):
            raise
    finally:
        sock.settimeout(_TIMEOUT)


def _read_twice(sock: socket.socket, plan: Plan) -> TableState | None:
    """Our table as it is now; what is not as it should be counts only if it stays so.

    While another thread's transaction fails, as ours does where the table is there already, the
    kernel shows rules that it takes back at its end, and does not mark the dump as interrupted.
    """
    before = _read(sock, plan)
    for _ in range(_ATTEMPTS):
        if before == plan.state:
            break
        again = _read(sock, plan)
        if again == before:
            break
        before = again
    return before


def _read(sock: socket.socket, plan: Plan) -> TableState | None:
    """Our table as it is now; None where it is not there."""
    for _ in range(_ATTEMPTS):
        found: list[Message] = []
        if all(_dump(sock, kind, body, found) for kind, body in _dumps(plan)):
            return table_state(TABLE, found)
    raise NftError(
        "cannot read the rules with nftables: they keep changing while they are read; "
        "find out what else changes nftables in this namespace"
    )


def _dumps(plan: Plan) -> Iterator[tuple[int, bytes]]:
    """Kind and attributes of each dump; rules of our table alone, where the kernel can filter."""
    yield _GETTABLE, b""
    yield _GETCHAIN, b""
    yield _GETRULE, dump_body(TABLE)
    if plan.sets:
        yield GETSET, dump_body(TABLE)
    for each in plan.sets:
        yield GETSETELEM, dump_body(TABLE, each.name)


def _dump_request(kind: int, attrs: bytes) -> bytes:
    body = struct.pack("=BBH", _NFPROTO_INET, 0, 0) + attrs
    return struct.pack("=IHHII", 16 + len(body), kind, _NLM_F_REQUEST | _NLM_F_DUMP, kind, 0) + body


def _dump(sock: socket.socket, kind: int, attrs: bytes, found: list[Message]) -> bool:
    """Collect one dump. False where it was interrupted by a change and has to be repeated."""
    sock.send(_dump_request(kind, attrs))
    whole = True
    for message in _received(sock):
        if message.sequence != kind:
            continue
        whole = whole and not message.flags & NLM_F_DUMP_INTR
        if message.type == NLMSG_ERROR:
            answer = reply(message)
            if answer.errno == errno.ENOENT:
                return whole
            raise _RefusedError(answer, "the dump of our table")
        if message.type == NLMSG_DONE:
            return whole
        if len(found) < _MOST_OBJECTS:
            found.append(message)
    raise AssertionError("unreachable: receiving ends with a message or an error")
