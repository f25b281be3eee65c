"""What the validator tries: for each address family of the pod, where to listen and to connect.

Pure. A destination must be routable, and the pod's own skips must not let it past the proxy.
"""

from __future__ import annotations

import ipaddress
import itertools
import re
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from cni_plugin.dataplane.addresses import IPAddress, IPNetwork, Network
from vocabulary.annotations.redirect import PortRange, Redirect
from vocabulary.defaults import OUTBOUND_PORT

Version = Literal[4, 6]
LISTEN_PORT = OUTBOUND_PORT
"""The proxy's outbound port, in Linkerd and here, unless the settings name another."""
_FAR_AWAY: dict[Version, tuple[str, ...]] = {
    4: ("192.0.2.2", "198.18.0.1"),
    6: ("2001:db8::2", "fd00::1"),
}
"""Addresses for documentation and benchmarks (RFC 5737, 2544, 3849) and a private one: should a
connection leave the pod, it troubles nobody."""
_PORTS = (1404, 20001)
_NEIGHBOURS = 3
_WILDCARDS = ("0.0.0.0", "::")


@dataclass(frozen=True, slots=True)
class Address:
    """An IP address and a TCP port."""

    host: str
    port: int

    @property
    def family(self) -> socket.AddressFamily:
        return socket.AF_INET6 if ":" in self.host else socket.AF_INET

    @property
    def version(self) -> Version:
        return 6 if ":" in self.host else 4

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """``192.0.2.2:1404`` or ``[fd00::1]:20001``.

    Raises:
        ValueError: it is no such thing.
    """
    match = re.fullmatch(r"(?:\[(?P<six>.*)\]|(?P<four>[^:]*)):(?P<port>[0-9]{1,5})", text)
    try:
        if match is None or int(match["port"]) > 65535:
            raise ValueError(text)
        if match["six"] is not None:
            ipaddress.IPv6Address(match["six"])
        else:
            ipaddress.IPv4Address(match["four"])
    except ValueError:
        raise ValueError(
            f"{text!r} is not an address: expected IP:PORT, with brackets around IPv6"
        ) from None
    return Address(match["six"] or match["four"], int(match["port"]))


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line asks for; None where it does not say."""

    listen: Address | None = None
    connect: Address | None = None
    redirect: Redirect | None = None
    """The pod's rules as they should be."""


@dataclass(frozen=True, slots=True)
class Target:
    """One family: a connection to any of the destinations must come out at ``listen``."""

    version: Version
    listen: Address
    destinations: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to try, and why a family of the pod is left out."""

    targets: tuple[Target, ...]
    notes: tuple[str, ...]
    problem: str = ""
    """Why nothing can be tried, although the pod needs it."""


def plan(wanted: Wanted, pod: Network) -> Plan:
    """What to try in a pod with these addresses and routes.

    Without ``listen`` every family counts; ``0.0.0.0`` stands for a mesh of IPv4 alone, ``::`` for
    both, as Linkerd's chart writes them, and any other address for its own family.
    """
    targets: list[Target] = []
    skipped: list[str] = []
    unrouted: list[str] = []
    for version in _versions(wanted, pod):
        routes = [route for route in pod.routes if _is_way_out(route, version)]
        if not routes and _is_wildcard(wanted.listen):
            unrouted.append(f"IPv{version}: the pod has no route, so nothing can leave it")
        elif found := tuple(dict.fromkeys(_destinations(wanted, pod, routes, version))):
            targets.append(Target(version, _listen(wanted, version), found))
        else:
            skipped.append(f"IPv{version}: all that could be tried goes past the proxy on purpose")
    problem = ""
    if not targets and not skipped:
        problem = f"{'; '.join(unrouted)}. {_NO_NETWORK}" if unrouted else _NO_ADDRESS
    return Plan(tuple(targets), (*skipped, *unrouted), problem)


_NO_NETWORK = "Look at the primary CNI plugin, which has not finished this pod's network"
_NO_ADDRESS = (
    "this pod has no address, except for loopback's, of a family that is to be redirected, so "
    f"there is nothing to try. {_NO_NETWORK}; or --listen-addr names the other family"
)


def _is_wildcard(listen: Address | None) -> bool:
    return listen is None or listen.host in _WILDCARDS


def _versions(wanted: Wanted, pod: Network) -> Iterator[Version]:
    listen = wanted.listen
    if listen is not None and not _is_wildcard(listen):
        yield listen.version
        return
    has = {address.version for address in pod.addresses}
    if 4 in has:
        yield 4
    only_ipv4 = listen is not None and listen.version == 4
    if 6 in has and not only_ipv4 and (wanted.redirect is None or wanted.redirect.ipv6):
        yield 6


def _is_way_out(route: IPNetwork, version: Version) -> bool:
    return route.version == version and not (route.is_link_local and version == 6)


def _listen(wanted: Wanted, version: Version) -> Address:
    given = wanted.listen
    if given is not None and not _is_wildcard(given):
        return given
    port = given.port if given else LISTEN_PORT
    if given is None and wanted.redirect is not None:
        port = wanted.redirect.outbound_port
    return Address("::" if version == 6 else "0.0.0.0", port)


def _destinations(
    wanted: Wanted, pod: Network, routes: list[IPNetwork], version: Version
) -> Iterator[Address]:
    """The address that was asked for first, then far ones, then those that need no gateway."""
    connect, anywhere = wanted.connect, not _is_wildcard(wanted.listen)
    if connect is not None and connect.version == version:
        if anywhere or _is_usable(connect, routes, wanted.redirect):
            yield connect
        if anywhere:
            return
    port = _port(wanted.redirect)
    if port is None:
        return
    near = itertools.islice(_neighbours(pod, routes), _NEIGHBOURS)
    for host in (*_FAR_AWAY[version], *map(str, near)):
        address = Address(host, port)
        is_own = ipaddress.ip_address(host) in pod.addresses
        if not is_own and _is_usable(address, routes, wanted.redirect):
            yield address


def _port(redirect: Redirect | None) -> int | None:
    """A port that the pod's skips do not name; None where they name all."""
    skips = redirect.skip_outbound_ports if redirect else ()
    candidates = itertools.chain(_PORTS, range(1, 65536))
    return next((port for port in candidates if not _among(port, skips)), None)


def _among(port: int, ranges: Iterable[PortRange]) -> bool:
    return any(each.lower <= port <= each.upper for each in ranges)


def _is_usable(address: Address, routes: list[IPNetwork], redirect: Redirect | None) -> bool:
    """Whether there is a route to it, and the pod's own skips do not let it past the proxy."""
    ip = ipaddress.ip_address(address.host.partition("%")[0])
    if not any(ip in route for route in routes):
        return False
    if redirect is None:
        return True
    skipped = (ipaddress.ip_network(each, strict=False) for each in redirect.skip_outbound_subnets)
    return not _among(address.port, redirect.skip_outbound_ports) and not any(
        ip in network for network in skipped
    )


def _neighbours(pod: Network, routes: list[IPNetwork]) -> Iterator[IPAddress]:
    """For each route but the default one, an address in it that is not the pod's own."""
    for route in routes:
        if route.prefixlen == 0 or route.is_multicast:
            continue
        hosts: Iterator[IPAddress] = iter(route.hosts())
        for address in itertools.islice(hosts, 1 + len(pod.addresses)):
            if address not in pod.addresses:
                yield address
                break
