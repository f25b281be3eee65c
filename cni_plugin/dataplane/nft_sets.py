"""nftables sets of intervals: as messages of a transaction, and as the kernel shows them.

Pure. Encoded with struct, not with pyroute2: two thousand elements would take it a second, in which
no other pod of the node is served. Numbers as in linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from cni_plugin.dataplane.intervals import Interval
from cni_plugin.dataplane.nft_decode import NEWSET, NEWSETELEM, NFPROTO_INET, NLA_F_NESTED

GETSET, GETSETELEM = NEWSET + 1, NEWSETELEM + 1
_NLM_F_REQUEST, _NLM_F_EXCL, _NLM_F_CREATE = 0x1, 0x200, 0x400
_SET_F_CONSTANT, _SET_F_INTERVAL = 0x2, 0x4
_KEY_TYPES = {2: 13, 4: 7, 16: 8}
"""inet_service, ipv4_addr, ipv6_addr: for people who list the rules; any will do for the kernel."""
_INTERVAL_END = struct.pack("!I", 1)
_LONGEST_LIST = 60_000
"""An attribute is at most 65,535 bytes."""
_HEADER = struct.Struct("=IHHIIBBH")


@dataclass(frozen=True, slots=True)
class IntervalSet:
    """A named set; its intervals are sorted and apart, and there is at least one."""

    name: str
    intervals: tuple[Interval, ...]

    @property
    def key_length(self) -> int:
        """Bytes of a port or an address."""
        return len(self.intervals[0].low)


def set_messages(table: str, given: IntervalSet, number: int) -> Iterator[tuple[str, bytes]]:
    """What makes the set and fills it, each with what it is about; ``number`` is the set's own in
    the transaction."""
    about = f"set inet {table} {given.name}"
    names = _attribute(1, _zero(table)) + _attribute(2, _zero(given.name))
    yield (
        about,
        _message(
            NEWSET,
            names
            + _attribute(3, struct.pack("!I", _SET_F_CONSTANT | _SET_F_INTERVAL))
            + _attribute(4, struct.pack("!I", _KEY_TYPES[given.key_length]))
            + _attribute(5, struct.pack("!I", given.key_length))
            + _attribute(10, struct.pack("!I", number)),
        ),
    )
    for elements in _lists(given):
        yield (
            f"elements of {about}",
            _message(
                NEWSETELEM,
                names
                + _attribute(3 | NLA_F_NESTED, elements)
                + _attribute(4, struct.pack("!I", number)),
            ),
        )


def _lists(given: IntervalSet) -> Iterator[bytes]:
    length = given.key_length
    padded = (length + 3) & ~3
    key = struct.pack("=HHHH", 8 + padded, 1 | NLA_F_NESTED, 4 + length, 1)
    pad = bytes(padded - length)
    start = struct.pack("=HH", 4 + 8 + padded, 1 | NLA_F_NESTED) + key
    end = struct.pack("=HH", 4 + 8 + padded + 8, 1 | NLA_F_NESTED) + key
    ending = pad + struct.pack("=HH", 8, 3) + _INTERVAL_END  # after the key, as the kernel shows it
    parts, size = list[bytes](), 0
    for low, high in given.intervals:
        after = _after(high)
        parts.append(start + low + pad)
        # The end is the first that is no longer in it; after the very last there is none.
        if after is not None:
            parts.append(end + after + ending)
        size += len(start) + len(end) + length + padded + len(ending)
        if size > _LONGEST_LIST:
            yield b"".join(parts)
            parts, size = [], 0
    if parts:
        yield b"".join(parts)


def _after(key: bytes) -> bytes | None:
    number = int.from_bytes(key) + 1
    return None if number >> (8 * len(key)) else number.to_bytes(len(key))


def dump_body(table: str, name: str | None = None) -> bytes:
    """Attributes of a dump of a table's sets, or of one set's elements."""
    body = _attribute(1, _zero(table))
    return body if name is None else body + _attribute(2, _zero(name))


def _message(kind: int, attributes: bytes) -> bytes:
    flags = _NLM_F_REQUEST | _NLM_F_CREATE | (_NLM_F_EXCL if kind == NEWSET else 0)
    return _HEADER.pack(20 + len(attributes), kind, flags, 0, 0, NFPROTO_INET, 0, 0) + attributes


def _attribute(kind: int, payload: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(-len(payload) & 3)


def _zero(text: str) -> bytes:
    return text.encode() + b"\0"
