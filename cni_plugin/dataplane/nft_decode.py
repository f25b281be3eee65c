"""What the kernel says about nftables, as values that can be compared with what should be.

Pure. Our own transaction and the kernel's dump go through the same functions, so "equal" has one
meaning. Attributes that a newer kernel adds to a dump are left out, those that it fills in are
given their default on our side; whatever changes what a rule does is kept.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_DUMP_INTR = 0x10
_NLM_F_CAPPED, _NLM_F_ACK_TLVS = 0x100, 0x200
_NLMSGERR_ATTR_MSG = 1

_SUBSYS_NFTABLES = 10
_NEWTABLE, _NEWCHAIN, _NEWRULE, NEWSET, NEWSETELEM = (
    _SUBSYS_NFTABLES << 8 | kind for kind in (0, 3, 6, 9, 12)
)
_KINDS = frozenset((_NEWTABLE, _NEWCHAIN, _NEWRULE, NEWSET, NEWSETELEM))
NFPROTO_INET = 1
_HEADER = struct.Struct("=IHHII")
_NFGEN_LENGTH = 4
_NLA_TYPE_MASK = 0x3FFF
NLA_F_NESTED = 0x8000
_ELEMENT_ENDS = (b"", struct.pack("=HH", 8, 3) + b"\0\0\0\1")
"""What follows an element's key: nothing, or that an interval ends there."""
_NF_NAT_RANGE_PROTO_SPECIFIED = 2


class Message(NamedTuple):
    """One netlink message; ``body`` is what follows its header."""

    type: int
    flags: int
    sequence: int
    body: bytes


def messages(data: bytes) -> Iterator[Message]:
    """The messages of one datagram.

    Raises:
        ValueError: a length is impossible.
    """
    position = 0
    while position + _HEADER.size <= len(data):
        length, kind, flags, sequence, _port = _HEADER.unpack_from(data, position)
        if length < _HEADER.size or position + length > len(data):
            raise ValueError(f"netlink message of {length} bytes in {len(data) - position}")
        yield Message(kind, flags, sequence, data[position + _HEADER.size : position + length])
        position += (length + 3) & ~3


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The attributes (type without flags, payload) of a message's or attribute's payload.

    Raises:
        ValueError: a length is impossible.
    """
    position = 0
    while position + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, position)
        if length < 4 or position + length > len(data):
            raise ValueError(f"netlink attribute of {length} bytes in {len(data) - position}")
        yield kind & _NLA_TYPE_MASK, data[position + 4 : position + length]
        position += (length + 3) & ~3


class Reply(NamedTuple):
    """The kernel's verdict on one message: errno (0 is an acknowledgement) and its own words."""

    sequence: int
    errno: int
    text: str


def reply(message: Message) -> Reply:
    """Decode an NLMSG_ERROR, with the extended acknowledgement where the kernel gives one."""
    (number,) = struct.unpack_from("=i", message.body)
    text = ""
    if message.flags & _NLM_F_ACK_TLVS:
        (original,) = struct.unpack_from("=I", message.body, 4)
        tail = 4 + (_HEADER.size if message.flags & _NLM_F_CAPPED else (original + 3) & ~3)
        text = (
            dict(attributes(message.body[tail:])).get(_NLMSGERR_ATTR_MSG, b"").decode().strip("\0")
        )
    return Reply(message.sequence, -number, text)


class Expression(NamedTuple):
    """One step of a rule, with every attribute that changes its meaning."""

    name: str
    fields: tuple[tuple[int, object], ...]


class RuleState(NamedTuple):
    """A rule as the kernel holds it."""

    comment: str
    expressions: tuple[Expression, ...]


class ChainState(NamedTuple):
    """A chain's type, hook, priority and policy, raw; everything empty for one without a hook."""

    type: bytes
    hook: bytes
    priority: bytes
    policy: bytes
    flags: bytes


class SetState(NamedTuple):
    """A set: its keys' length, its flags, and its elements: each key, and whether an interval ends
    there."""

    key_length: int
    flags: int
    elements: frozenset[tuple[bytes, bool]]


@dataclass
class TableState:
    """Our table: its flags, chains with their rules in order, and sets."""

    flags: bytes = bytes(4)
    chains: dict[str, ChainState] = field(default_factory=dict)
    rules: dict[str, list[RuleState]] = field(default_factory=dict)
    sets: dict[str, SetState] = field(default_factory=dict)


def table_state(table: str, given: Iterable[Message]) -> TableState | None:
    """What the messages (a dump, or a transaction of ours) say about ``inet`` table ``table``.

    None where they do not hold the table itself.
    """
    state, seen = TableState(), False
    for message in given:
        if message.type not in _KINDS or message.body[0] != NFPROTO_INET:
            continue
        attrs = dict(attributes(message.body[_NFGEN_LENGTH:]))
        if _text(attrs.get(1, b"")) != table:
            continue
        if message.type == _NEWTABLE:
            state.flags, seen = attrs.get(2, bytes(4)), True
        elif message.type == _NEWCHAIN:
            state.chains[_text(attrs.get(3, b""))] = _chain_state(attrs)
        elif message.type == NEWSET:
            name = _text(attrs.get(2, b""))
            length, flags = _number(attrs.get(5)), _number(attrs.get(3))
            state.sets[name] = SetState(length, flags, frozenset())
        elif message.type == NEWSETELEM:
            name = _text(attrs.get(2, b""))
            known = state.sets.get(name, SetState(0, 0, frozenset()))
            elements = known.elements.union(_elements(attrs.get(3, b""), known.key_length))
            state.sets[name] = known._replace(elements=elements)
        else:
            state.rules.setdefault(_text(attrs.get(2, b"")), []).append(_rule_state(attrs))
    return state if seen else None


def _text(payload: bytes) -> str:
    return payload.rstrip(b"\0").decode(errors="replace")


def _number(payload: bytes | None) -> int:
    return int.from_bytes(payload or b"")


def _elements(payload: bytes, length: int) -> Iterator[tuple[bytes, bool]]:
    """The elements of one message. Nearly all look the same, and there may be thousands."""
    padded = (length + 3) & ~3
    usual = struct.pack("=HHHH", 8 + padded, 1, 4 + length, 1)
    known = (usual, struct.pack("=HHHH", 8 + padded, 1 | NLA_F_NESTED, 4 + length, 1))
    key_end = 8 + length
    for _, element in attributes(payload):
        if element[:8] in known and element[key_end + (-length & 3) :] in _ELEMENT_ENDS:
            yield element[8:key_end], len(element) > 8 + padded
            continue
        attrs = dict(attributes(element))
        key = dict(attributes(attrs.get(1, b""))).get(1, b"")
        yield key, bool(_number(attrs.get(3)) & 1)


def _chain_state(attrs: dict[int, bytes]) -> ChainState:
    hook = dict(attributes(attrs.get(4, b"")))
    return ChainState(
        type=attrs.get(7, b"").rstrip(b"\0"),
        hook=hook.get(1, b""),
        priority=hook.get(2, b""),
        policy=attrs.get(5, b""),
        flags=attrs.get(10, b"\0\0\0\1" if hook else bytes(4)),
    )


def _rule_state(attrs: dict[int, bytes]) -> RuleState:
    return RuleState(
        comment=_comment(attrs.get(7, b"")),
        expressions=tuple(_expression(item) for _, item in attributes(attrs.get(4, b""))),
    )


def _comment(userdata: bytes) -> str:
    """The comment in a rule's userdata: type 0, length, zero-terminated text (libnftnl)."""
    position = 0
    while position + 2 <= len(userdata):
        kind, length = userdata[position], userdata[position + 1]
        if kind == 0:
            return _text(userdata[position + 2 : position + 2 + length])
        position += 2 + length
    return ""


# Attributes that make up the meaning of each expression, with what the kernel takes for an absent
# one; None stands for "always there". Numbers as in linux/netfilter/nf_tables.h.
_ZERO = bytes(4)
_FIELDS: dict[str, dict[int, bytes | None]] = {
    "meta": {1: None, 2: None},
    "payload": {1: None, 2: None, 3: None, 4: None},
    "cmp": {1: None, 2: None, 3: None},
    "bitwise": {1: None, 2: None, 3: None, 4: None, 5: None, 6: _ZERO},
    "immediate": {1: None, 2: None},
    "redir": {1: None, 2: None, 3: _ZERO},
    "socket": {1: None, 2: None},
    "lookup": {1: None, 2: None, 5: _ZERO},
}
_NESTED = {"cmp": {3}, "bitwise": {4, 5}, "immediate": {2}}


def _expression(payload: bytes) -> Expression:
    attrs = dict(attributes(payload))
    name = _text(attrs.get(1, b""))
    given = attrs.get(2, b"")
    if name not in _FIELDS:
        return Expression(name, ((0, given),))
    found = dict(attributes(given))
    if name == "redir":
        _fill_in_redir(found)
    nested = _NESTED.get(name, set())
    return Expression(
        name,
        tuple(
            (key, _tree(found.get(key, b"")) if key in nested else found.get(key, default))
            for key, default in _FIELDS[name].items()
        ),
    )


def _fill_in_redir(found: dict[int, bytes]) -> None:
    """The kernel sets the upper port to the lower one, and a flag that says so."""
    if 1 in found:
        found.setdefault(2, found[1])
    if 3 in found:
        (flags,) = struct.unpack("!I", found[3])
        found[3] = struct.pack("!I", flags & ~_NF_NAT_RANGE_PROTO_SPECIFIED)


def _tree(payload: bytes) -> tuple[tuple[int, object], ...]:
    """NFTA_DATA_*: a value as it is, a verdict as its attributes."""
    return tuple(
        (kind, tuple(attributes(inner)) if kind == 2 else inner)
        for kind, inner in attributes(payload)
    )


def difference(wanted: TableState, found: TableState | None, table: str) -> str | None:
    """The first difference between what should be and what is, as a sentence; None for none."""
    if found is None:
        return f"table inet {table} is missing"
    if found.flags != wanted.flags:
        return f"table inet {table} has the flags {found.flags.hex()} (dormant?), expected none"
    for chain in wanted.chains:
        text = _chain_difference(wanted, found, chain)
        if text is not None:
            return f"chain inet {table} {chain} {text}"
    for name, content in wanted.sets.items():
        if found.sets.get(name) != content:
            return (
                f"set inet {table} {name} {'has changed' if name in found.sets else 'is missing'}"
            )
    extra = sorted(found.chains.keys() - wanted.chains.keys())
    return f"table inet {table} has a chain that is not ours: {extra[0]}" if extra else None


def _chain_difference(wanted: TableState, found: TableState, chain: str) -> str | None:
    if chain not in found.chains:
        return "is missing"
    if found.chains[chain] != wanted.chains[chain]:
        return "has another type, hook, priority or policy than it should"
    should, are = wanted.rules.get(chain, []), found.rules.get(chain, [])
    for number, (expected, actual) in enumerate(zip(should, are, strict=False), start=1):
        if expected.comment != actual.comment:
            return f"has {actual.comment!r} as rule {number}, expected {expected.comment!r}"
        if expected != actual:
            return f"has a changed rule {number}, {expected.comment!r}"
    if len(are) < len(should):
        return f"lacks rule {len(are) + 1}, {should[len(are)].comment!r}"
    if len(are) > len(should):
        return f"has {len(are) - len(should)} more rules than it should"
    return None
