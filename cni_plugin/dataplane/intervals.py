"""Ports and subnets as merged intervals, ready for a set: sorted, apart, each with its ends."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import NamedTuple

from cni_plugin.dataplane.errors import InvalidRedirectError
from vocabulary.annotations.redirect import PortRange

_LONGEST_CIDR = 64


class Interval(NamedTuple):
    """From ``low`` to ``high``, both inclusive, in network byte order."""

    low: bytes
    high: bytes


def port_intervals(ports: Iterable[PortRange]) -> tuple[Interval, ...]:
    """The ports and ranges, those that touch or overlap as one."""
    return _intervals(((port.lower, port.upper) for port in ports), 2)


def subnet_intervals(
    cidrs: Iterable[str],
) -> tuple[tuple[Interval, ...], tuple[Interval, ...]]:
    """The IPv4 and the IPv6 ones of the CIDRs, those that touch or overlap as one.

    Raises:
        InvalidRedirectError: one of them is not a CIDR.
    """
    pairs: dict[int, list[tuple[int, int]]] = {4: [], 16: []}
    for cidr in cidrs:
        length, low, high = _ends(cidr)
        pairs[length].append((low, high))
    return _intervals(pairs[4], 4), _intervals(pairs[16], 16)


def _ends(cidr: str) -> tuple[int, int, int]:
    """The address's length, the first address and the last. inet_pton, because the ipaddress
    module takes ten times as long, and a pod waits."""
    text, slash, prefix = cidr.partition("/")
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    try:
        if len(cidr) > _LONGEST_CIDR:
            raise ValueError(cidr)
        packed = socket.inet_pton(family, text)
        bits = 8 * len(packed)
        if slash and not (prefix.isascii() and prefix.isdecimal() and len(prefix) <= 3):
            raise ValueError(cidr)
        host = bits - (int(prefix) if slash else bits)
        if host < 0:
            raise ValueError(cidr)
    except (OSError, ValueError) as error:
        shown = cidr[:_LONGEST_CIDR]
        raise InvalidRedirectError(f"{shown!r} is not a valid CIDR address") from error
    low = int.from_bytes(packed) >> host << host
    return len(packed), low, low | ((1 << host) - 1)


def _intervals(pairs: Iterable[tuple[int, int]], length: int) -> tuple[Interval, ...]:
    merged: list[tuple[int, int]] = []
    for low, high in sorted(pairs):
        if merged and low <= merged[-1][1] + 1:
            if high > merged[-1][1]:
                merged[-1] = (merged[-1][0], high)
        else:
            merged.append((low, high))
    return tuple(Interval(low.to_bytes(length), high.to_bytes(length)) for low, high in merged)
