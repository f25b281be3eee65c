"""A `Redirect` as the entries of legacy nat tables: the kernel's own structures, as bytes.

Pure. python-iptables would make these through libxtables, but that serves one address family in
a process (of REDIRECT it finds the family that was asked first), looks uids up as user *names*,
on the network where NSS says so, and python-iptables gives ``-o lo`` in IPv6 a mask that matches
``net1`` too. The structures are part of the kernel's stable interface (linux/netfilter/xt_*.h),
and the tests compare them with what the ``iptables-legacy`` program makes.

Entries are in one canonical form, without counters and the kernel's own fields, so that what is
there can be compared with what should be, and put back.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from cni_plugin.dataplane.rules import (
    CHAINS,
    JUMPS,
    MULTIPORT_SLOTS,
    Family,
    Jump,
    Rule,
    is_worth_keeping,
    rules_of,
)
from vocabulary.annotations.redirect import PortRange, Redirect

_IFNAMSIZ = 16
_ALIGN = 8
_EXTENSION = struct.Struct("=H29sB")
"""struct xt_entry_match and xt_entry_target: size, name, revision; the data follows."""
_NAME_OFFSET = 2
_IPPROTO_TCP = 6
_IP6T_F_PROTO = 1
_OWNER_UID, _OWNER_GID = 1, 2
_XT_SOCKET_NOWILDCARD = 2
"""Sockets that are bound to any address count too."""
_MULTIPORT_DESTINATION = 1
_NF_NAT_RANGE_PROTO_SPECIFIED = 2


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where struct ipt_entry and struct ip6t_entry have their fields."""

    addresses: int
    """Length of one address; source, destination and both masks come first."""
    matched: int
    """Length of struct ipt_ip or ip6t_ip6."""
    length: int

    @property
    def offsets(self) -> int:
        """target_offset and next_offset, behind nfcache; comefrom and counters follow."""
        return self.matched + 4


_LAYOUTS = {"ipv4": _Layout(4, 84, 112), "ipv6": _Layout(16, 136, 168)}


@dataclass(frozen=True, slots=True)
class NatState:
    """Our part of one family's nat table.

    ``chains`` holds the entries of each of our chains, None for one that is not there; ``jumps``
    the entries of the built-in chains that lead into each of them. Both in the order of `CHAINS`.
    """

    chains: tuple[tuple[bytes, ...] | None, ...]
    jumps: tuple[tuple[bytes, ...], ...]


ABSENT = NatState(chains=(None, None), jumps=((), ()))


def wanted(redirect: Redirect, family: Family) -> NatState:
    """What the family's nat table should hold of ours; the most recent answers are cached.

    Raises:
        InvalidRedirectError: a subnet is not a CIDR, or it lists too much.
    """
    make = _cached_state if is_worth_keeping(redirect) else _state
    return make(redirect, family)


def _state(redirect: Redirect, family: Family) -> NatState:
    rules = rules_of(redirect, family)
    if not rules:
        return ABSENT
    return NatState(
        chains=tuple(
            tuple(entry(rule, family) for rule in rules if rule.chain == chain) for chain in CHAINS
        ),
        jumps=tuple((jump_entry(jump, family),) for jump in JUMPS),
    )


_cached_state = lru_cache(maxsize=64)(_state)


def entry(rule: Rule, family: Family) -> bytes:
    """One rule as an entry."""
    matches = b"".join(_matches(rule))
    target = _standard("RETURN") if rule.redirect_to is None else _redirect(rule, family)
    return _entry(_packet(rule, family), matches, target, family)


def jump_entry(jump: Jump, family: Family) -> bytes:
    """The entry of a built-in chain that leads into one of ours."""
    anything = bytes(_LAYOUTS[family].matched)
    return _entry(anything, _comment(jump.comment), _standard(jump.chain), family)


def canonical(raw: bytes, family: Family, target: str) -> bytes:
    """An entry as libiptc gives it, without counters and the kernel's own fields.

    ``target`` is the name of its target; a verdict or jump, which has a number there, gets it.
    """
    layout, data = _LAYOUTS[family], bytearray(raw)
    data[layout.matched : layout.offsets] = bytes(4)
    data[layout.offsets + 4 : layout.length] = bytes(layout.length - layout.offsets - 4)
    (target_offset,) = struct.unpack_from("=H", data, layout.offsets)
    position = layout.length
    while position < target_offset:
        position += _clear_behind_name(data, position)
    if data[target_offset + _NAME_OFFSET] == 0:
        data[target_offset:] = _standard(target)
    else:
        _clear_behind_name(data, target_offset)
    return bytes(data)


def _clear_behind_name(data: bytearray, position: int) -> int:
    """Clear what the kernel left uninitialised behind an extension's name; its whole size.

    Raises:
        ValueError: the size is impossible.
    """
    size, name, revision = _EXTENSION.unpack_from(data, position)
    if size < _EXTENSION.size:
        raise ValueError(f"an extension of {size} bytes in an iptables entry")
    _EXTENSION.pack_into(data, position, size, name.partition(b"\0")[0], revision)
    return int(size)


def _entry(packet: bytes, matches: bytes, target: bytes, family: Family) -> bytes:
    layout = _LAYOUTS[family]
    head = bytearray(packet.ljust(layout.length, b"\0"))
    target_offset = layout.length + len(matches)
    struct.pack_into("=HH", head, layout.offsets, target_offset, target_offset + len(target))
    return bytes(head) + matches + target


def _packet(rule: Rule, family: Family) -> bytes:
    """struct ipt_ip or ip6t_ip6: addresses, interfaces and protocol."""
    length = _LAYOUTS[family].addresses
    source, source_mask = _network(rule.source, length)
    destination, destination_mask = _network(rule.destination, length)
    name = rule.out_interface.encode()
    mask = b"\xff" * (len(name) + 1) if name else b""
    packet = source + destination + source_mask + destination_mask
    for interface in (b"", name, b"", mask):  # in, out, and their masks
        packet += interface.ljust(_IFNAMSIZ, b"\0")
    protocol = _IPPROTO_TCP if rule.tcp else 0
    if family == "ipv4":
        return packet + struct.pack("=HBB", protocol, 0, 0)
    # The program sets the flag whenever there is a -p, as there is for subnets ("-p all").
    named = rule.tcp or rule.source or rule.destination
    return packet + struct.pack("=HBBB3x", protocol, 0, _IP6T_F_PROTO if named else 0, 0)


def _network(cidr: str, length: int) -> tuple[bytes, bytes]:
    if not cidr:
        return bytes(length), bytes(length)
    network = ipaddress.ip_network(cidr)
    return network.network_address.packed, network.netmask.packed


def _matches(rule: Rule) -> Iterator[bytes]:
    if rule.ports:
        yield _multiport(rule.ports)
    if rule.port is not None:
        lower, upper = rule.port.lower, rule.port.upper
        yield _extension("tcp", 0, struct.pack("=HHHHBBBB", 0, 65535, lower, upper, 0, 0, 0, 0))
    if rule.listening:
        yield _extension("socket", 3, struct.pack("=B", _XT_SOCKET_NOWILDCARD))
    if rule.uid is not None:
        yield _extension(
            "owner", 1, struct.pack("=4I2B2x", rule.uid, rule.uid, 0, 0, _OWNER_UID, 0)
        )
    if rule.gid is not None:
        yield _extension(
            "owner", 1, struct.pack("=4I2B2x", 0, 0, rule.gid, rule.gid, _OWNER_GID, 0)
        )
    yield _comment(rule.comment)


def _multiport(ports: tuple[PortRange, ...]) -> bytes:
    """A range takes two places, of which the first is flagged."""
    numbers: list[int] = []
    flags = bytearray(MULTIPORT_SLOTS)
    for port in ports:
        if port.lower != port.upper:
            flags[len(numbers)] = 1
            numbers.append(port.lower)
        numbers.append(port.upper)
    padded = numbers + [0] * (MULTIPORT_SLOTS - len(numbers))
    data = struct.pack("=BB15H15sB", _MULTIPORT_DESTINATION, len(numbers), *padded, flags, 0)
    return _extension("multiport", 1, data)


def _comment(text: str) -> bytes:
    return _extension("comment", 0, struct.pack("=256s", text.encode()))


def _standard(name: str) -> bytes:
    """A verdict or a jump, by name: libiptc puts the number in."""
    return _extension(name, 0, struct.pack("=i", 0))


def _redirect(rule: Rule, family: Family) -> bytes:
    port = struct.pack("!HH", rule.redirect_to, rule.redirect_to)
    if family == "ipv4":  # struct nf_nat_ipv4_multi_range_compat
        data = struct.pack("=II8x", 1, _NF_NAT_RANGE_PROTO_SPECIFIED) + port
    else:  # struct nf_nat_range
        data = struct.pack("=I32x", _NF_NAT_RANGE_PROTO_SPECIFIED) + port
    return _extension("REDIRECT", 0, data)


def _extension(name: str, revision: int, data: bytes) -> bytes:
    """A match or target: header and data, padded to the alignment of the entry."""
    size = -(-(_EXTENSION.size + len(data)) // _ALIGN) * _ALIGN
    return (_EXTENSION.pack(size, name.encode(), revision) + data).ljust(size, b"\0")
