"""Reads which addresses and routes a network namespace has, from the kernel, without privilege.

Source: rtnetlink(7): dumps of RTM_GETADDR and RTM_GETROUTE, which anybody may ask for.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

from cni_plugin.dataplane.errors import NetnsError
from cni_plugin.dataplane.netns import entered
from cni_plugin.dataplane.nft_decode import (
    NLM_F_DUMP_INTR,
    NLMSG_DONE,
    NLMSG_ERROR,
    Message,
    attributes,
    messages,
    reply,
)

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_NETLINK_ROUTE = 0
_NEWADDR, _GETADDR, _NEWROUTE, _GETROUTE = 20, 22, 24, 26
_REQUEST_DUMP = 0x301
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_DST = 1
_RTN_UNICAST = 1
_ADDRESS = struct.Struct("=BBBBI")
_ROUTE = struct.Struct("=BBBBBBBBI")
_LENGTHS = {socket.AF_INET: 4, socket.AF_INET6: 16}
_TIMEOUT = 5.0
"""Seconds. The kernel answers at once; this guards against a bug, there or here."""
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Network:
    """What one network namespace is reachable at, and where it can send to."""

    addresses: frozenset[IPAddress]
    """Without loopback's and without link-local IPv6."""
    routes: tuple[IPNetwork, ...]
    """Destinations of unicast routes, of all tables; a default route has length 0."""


def route_socket(netns_fd: int | None = None) -> socket.socket:
    """A routing netlink socket of the namespace behind ``netns_fd``, or of the caller's own.

    Raises:
        NetnsError: the namespace cannot be entered, or there may be no such socket.
    """
    if netns_fd is None:
        return _socket()
    with entered(netns_fd):
        return _socket()


def _socket() -> socket.socket:
    try:
        sock = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_ROUTE
        )
    except OSError as error:
        raise NetnsError(f"cannot open a routing netlink socket: {error.strerror}") from error
    sock.settimeout(_TIMEOUT)
    return sock


def addresses(netns_fd: int | None = None) -> frozenset[IPAddress]:
    """The addresses by which others reach a namespace: none of loopback's, no link-local IPv6.

    Raises:
        NetnsError: the kernel does not tell.
    """
    with closing(route_socket(netns_fd)) as sock:
        return _addresses(sock)


def network(netns_fd: int | None = None) -> Network:
    """The addresses and the routes.

    Raises:
        NetnsError: the kernel does not tell.
    """
    with closing(route_socket(netns_fd)) as sock:
        found = (_route(message.body) for message in _dump(sock, _GETROUTE, _NEWROUTE))
        routes = tuple(dict.fromkeys(route for route in found if route is not None))
        return Network(_addresses(sock), routes)


def _addresses(sock: socket.socket) -> frozenset[IPAddress]:
    found = (_address(message.body) for message in _dump(sock, _GETADDR, _NEWADDR))
    return frozenset(
        address
        for address in found
        if address is not None
        and not address.is_loopback
        and not (address.version == 6 and address.is_link_local)
    )


def _address(body: bytes) -> IPAddress | None:
    family, *_ = _ADDRESS.unpack_from(body)
    parts = dict(attributes(body[_ADDRESS.size :]))
    # Of a point-to-point link, "address" is the other end's.
    packed = parts.get(_IFA_LOCAL) or parts.get(_IFA_ADDRESS)
    if packed is None or len(packed) != _LENGTHS.get(family):
        return None
    return ipaddress.ip_address(packed)


def _route(body: bytes) -> IPNetwork | None:
    family, length, _, _, _, _, _, kind, _ = _ROUTE.unpack_from(body)
    if family not in _LENGTHS or kind != _RTN_UNICAST:
        return None
    packed = dict(attributes(body[_ROUTE.size :])).get(_RTA_DST, bytes(_LENGTHS[family]))
    return ipaddress.ip_network((packed, length), strict=False)


def _dump(sock: socket.socket, request: int, wanted: int) -> list[Message]:
    """All answers of one kind; asked for again where something changed meanwhile."""
    try:
        for sequence in range(1, _ATTEMPTS + 1):
            body = bytes(_ROUTE.size)
            header = struct.pack("=IHHII", 16 + len(body), request, _REQUEST_DUMP, sequence, 0)
            sock.send(header + body)
            found = list(_answers(sock, sequence))
            if not any(message.flags & NLM_F_DUMP_INTR for message in found):
                return [message for message in found if message.type == wanted]
    except (OSError, ValueError, struct.error) as error:
        raise NetnsError(f"cannot read the namespace's addresses and routes: {error}") from error
    raise NetnsError("cannot read the namespace's addresses and routes: they keep changing")


def _answers(sock: socket.socket, sequence: int) -> Iterator[Message]:
    while True:
        for message in messages(sock.recv(1 << 16)):
            if message.sequence != sequence:
                continue
            if message.type == NLMSG_ERROR:
                number = reply(message).errno
                raise OSError(number, errno.errorcode.get(number, str(number)))
            yield message
            if message.type == NLMSG_DONE:
                return
