"""Our part of the legacy nat tables of a network namespace: read, replaced, compared, by libiptc.

For the worker process alone, which runs one request at a time. Each family is one commit, which
the kernel takes whole or not at all; everything is staged before the first commit, and a failure
of the second family puts the first one back.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from cni_plugin.dataplane.errors import LegacyError
from cni_plugin.dataplane.iptc_loader import quickly
from cni_plugin.dataplane.legacy_encode import ABSENT, NatState, canonical, wanted
from cni_plugin.dataplane.netns import entered, is_of_another_user_namespace
from cni_plugin.dataplane.rules import CHAINS, JUMPS, Family, rules_of
from vocabulary.annotations.redirect import Redirect

with quickly():
    import iptc
    from iptc.ip4tc import IPTCError

T = TypeVar("T")
_FAMILIES: tuple[Family, ...] = ("ipv4", "ipv6")
_NAMES = {"ipv4": "ip_tables_names", "ipv6": "ip6_tables_names"}
_PROGRAMS = {"ipv4": "iptables-legacy", "ipv6": "ip6tables-legacy"}
_ATTEMPTS = 5
_BUSY = os.strerror(errno.EAGAIN)
"""libiptc's word for "the table was changed between reading and writing"."""


class _BusyError(Exception):
    """Somebody else changed the table meanwhile: read it again."""


def apply(netns_fd: int, redirect: Redirect) -> bool:
    """Make both tables hold the rules of ``redirect``. True if anything had to be changed.

    Raises:
        DataplaneError: nothing was changed, or the text says what could not be put back.
    """
    states = {family: wanted(redirect, family) for family in _FAMILIES}
    try:
        return _retried(lambda: _in_netns(netns_fd, lambda: _bring(states)))
    except LegacyError as error:
        if not is_of_another_user_namespace(netns_fd):
            raise
        # xt_owner: the writer's user namespace must be that of the network namespace.
        raise LegacyError(
            "the pod has a user namespace of its own (hostUsers: false), and from outside of it "
            "the kernel takes no legacy rule that names a user, as the one for the proxy does; "
            f"let the agent use nftables (--iptables-mode nft) for such pods: {error}"
        ) from error


def remove(netns_fd: int) -> bool:
    """Take our chains and jumps away. True if there were any."""
    return _retried(lambda: _in_netns(netns_fd, lambda: _bring(dict.fromkeys(_FAMILIES, ABSENT))))


def difference(netns_fd: int, redirect: Redirect) -> str | None:
    """The first difference between the tables and what they should be; None for none."""
    states = {family: wanted(redirect, family) for family in _FAMILIES}

    def compare() -> str | None:
        for family in _FAMILIES:
            with _table(family, ABSENT) as table:  # ABSENT: comparing makes no table
                found = _read(table, family) if table is not None else ABSENT
            text = _first_difference(redirect, family, states[family], found)
            if text is not None:
                return text
        return None

    return _in_netns(netns_fd, compare)


def unavailable() -> str | None:
    """None where the kernel has legacy iptables, else what is missing.

    Opens no table: that would bring it into being in the caller's namespace.
    """
    if not Path("/proc/thread-self/net", _NAMES["ipv4"]).exists():
        return "the kernel has no legacy iptables, or its module ip_tables is not loaded"
    try:
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW).close()  # as libiptc
    except PermissionError:
        return "libiptc needs CAP_NET_RAW, which the chart gives with iptablesMode=legacy"
    return None


def _retried(change: Callable[[], bool]) -> bool:
    for _ in range(_ATTEMPTS):
        try:
            return change()
        except _BusyError:
            continue
    raise LegacyError(
        "cannot set the rules with legacy iptables: the tables keep changing meanwhile; find out "
        "what else changes iptables in this namespace"
    )


def _in_netns(netns_fd: int, run: Callable[[], T]) -> T:
    with entered(netns_fd):
        return run()


def _bring(states: Mapping[Family, NatState]) -> bool:
    """Bring the tables of the current namespace to ``states``."""
    with ExitStack() as stack:
        staged: list[tuple[Family, Any, NatState]] = []
        for family, state in states.items():
            table = stack.enter_context(_table(family, state))
            before = _read(table, family) if table is not None else ABSENT
            if before != state:
                with _explained(family, "prepare"):
                    _stage(table, before, state)
                staged.append((family, table, before))
        _commit_all(staged)
        return bool(staged)


def _commit_all(staged: list[tuple[Family, Any, NatState]]) -> None:
    done: list[tuple[Family, Any, NatState]] = []
    for family, table, before in staged:
        try:
            with _explained(family, "commit"):
                table.commit()
        except (LegacyError, _BusyError) as error:
            _put_back(done, error)
            raise
        done.append((family, table, before))


def _put_back(done: list[tuple[Family, Any, NatState]], because: Exception) -> None:
    for family, table, before in done:
        try:
            with _explained(family, "put back"):
                table.refresh()
                _stage(table, _read(table, family), before)
                table.commit()
        except (LegacyError, _BusyError) as error:
            raise LegacyError(
                f"{because}; and the {family} rules, set before that, could not be put back "
                f"({error}): delete the pod"
            ) from error


@contextmanager
def _table(family: Family, state: NatState) -> Iterator[Any]:
    """The family's nat table, freshly read; None where there is none and none is needed."""
    if state == ABSENT and not _exists(family):
        yield None
        return
    with _explained(family, "read"):
        cls = iptc.Table if family == "ipv4" else iptc.Table6
        # python-iptables keeps one table object for each name and hands it out again.
        table = cls(cls.NAT, autocommit=False)
        table.refresh()
    try:
        yield table
    finally:
        table.close()


def _exists(family: Family) -> bool:
    """Whether the table is there already: reading it would make it."""
    try:
        return "nat" in Path("/proc/thread-self/net", _NAMES[family]).read_text().split()
    except FileNotFoundError:
        return False
    except PermissionError:
        return True  # not root, only capabilities: reading will tell


@contextmanager
def _explained(family: Family, doing: str) -> Iterator[None]:
    try:
        yield
    except IPTCError as error:
        if _BUSY in str(error):
            raise _BusyError(f"{family} table nat is busy") from error
        raise LegacyError(
            f"cannot {doing} the {family} table nat with libiptc: {error}; the node needs the "
            f"modules behind {_PROGRAMS[family]} -t nat, and the agent CAP_NET_ADMIN and "
            "CAP_NET_RAW" + ("; or switch IPv6 off for the mesh" if family == "ipv6" else "")
        ) from error


def _read(table: Any, family: Family) -> NatState:
    chains = tuple(
        tuple(data for data, _ in _entries(table, chain, family)) if table.is_chain(chain) else None
        for chain in CHAINS
    )
    jumps = tuple(
        tuple(data for data, to in _entries(table, jump.builtin, family) if to == jump.chain)
        for jump in JUMPS
    )
    return NatState(chains, jumps)


def _entries(table: Any, chain: str, family: Family) -> Iterator[tuple[bytes, str]]:
    """Each entry of a chain in canonical form, with the name of its target."""
    entry = table.first_rule(chain)
    while entry:
        target = table.get_target(entry).decode()
        raw = ctypes.string_at(ctypes.addressof(entry), entry.next_offset)
        yield canonical(raw, family, target), target
        entry = table.next_rule(entry)


def _stage(table: Any, before: NatState, after: NatState) -> None:
    """Change the table in memory; nothing reaches the kernel before the commit."""
    for jump, old, new in zip(JUMPS, before.jumps, after.jumps, strict=True):
        if old != new:
            for entry in old:
                table.delete_entry(jump.builtin, _buffer(entry), _buffer(b"\xff" * len(entry)))
    for chain, was, will in zip(CHAINS, before.chains, after.chains, strict=True):
        if was != will:
            _stage_chain(table, chain, was, will)
    for jump, old, new in zip(JUMPS, before.jumps, after.jumps, strict=True):
        if old != new:
            for entry in new:
                table.append_entry(jump.builtin, _buffer(entry))


def _stage_chain(
    table: Any, chain: str, before: tuple[bytes, ...] | None, after: tuple[bytes, ...] | None
) -> None:
    if before is None:
        table.create_chain(chain)
    else:
        table.flush_entries(chain)
    if after is None:
        table.delete_chain(chain)
    for entry in after or ():
        table.append_entry(chain, _buffer(entry))


def _buffer(data: bytes) -> Any:
    return (ctypes.c_ubyte * len(data)).from_buffer_copy(data)


def _first_difference(
    redirect: Redirect, family: Family, should: NatState, found: NatState
) -> str | None:
    for chain, expected, actual in zip(CHAINS, should.chains, found.chains, strict=True):
        comments = [rule.comment for rule in rules_of(redirect, family) if rule.chain == chain]
        text = _chain_difference(comments, expected, actual)
        if text is not None:
            return f"{family} chain {chain} of table nat {text}"
    for jump, wish, jumps in zip(JUMPS, should.jumps, found.jumps, strict=True):
        if wish != jumps:
            return (
                f"{family} chain {jump.builtin} of table nat has {len(jumps)} jumps to "
                f"{jump.chain}, or changed ones; expected {len(wish)}"
            )
    return None


def _chain_difference(
    comments: list[str], expected: tuple[bytes, ...] | None, actual: tuple[bytes, ...] | None
) -> str | None:
    if expected == actual:
        return None
    if expected is None:
        return "is there, but this family is not redirected"
    if actual is None:
        return "is missing"
    pairs = zip(comments, expected, actual, strict=False)
    for number, (comment, one, other) in enumerate(pairs, start=1):
        if one != other:
            return f"has another rule {number} than {comment!r}"
    if len(actual) < len(expected):
        return f"lacks rule {len(actual) + 1}, {comments[len(actual)]!r}"
    return f"has {len(actual) - len(expected)} more rules than it should"
