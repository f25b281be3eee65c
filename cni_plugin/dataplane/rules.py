"""`rules`: the traffic rules of a `Redirect` as plain data, in the order of Linkerd's proxy-init.

Pure. Both backends render this one list, so that nftables and legacy iptables cannot disagree
about what a pod's rules are.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from cni_plugin.dataplane.errors import InvalidRedirectError
from vocabulary.annotations.redirect import PortRange, Redirect

MULTIPORT_SLOTS = 15
"""How many ports one multiport match of iptables takes; a range takes two."""

MAX_ITEMS = 2048
"""How many ports, ranges and subnets a Redirect may hold in all: many times what anybody needs, and
a small part of what fits into a pod's annotations."""
_KEPT_ITEMS = 64
_LONGEST_CIDR = 64

Chain = Literal["PROXY_INIT_REDIRECT", "PROXY_INIT_OUTPUT"]
REDIRECT_CHAIN: Chain = "PROXY_INIT_REDIRECT"
OUTPUT_CHAIN: Chain = "PROXY_INIT_OUTPUT"
CHAINS = (REDIRECT_CHAIN, OUTPUT_CHAIN)
Family = Literal["ipv4", "ipv6"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule: every match that is set must hold; then the packet returns or is redirected."""

    chain: Chain
    comment: str
    redirect_to: int | None = None
    """The proxy's port; None means RETURN: the packet goes on as if there were no proxy."""
    family: Family | None = None
    """None means every family."""
    tcp: bool = False
    ports: tuple[PortRange, ...] = ()
    """Destination ports, any of them: as many as one multiport match takes."""
    port: PortRange | None = None
    """Destination port or range, matched by itself."""
    source: str = ""
    """CIDR, normalised; empty means any. The same holds for ``destination``."""
    destination: str = ""
    uid: int | None = None
    """Owner of the sending socket."""
    gid: int | None = None
    out_interface: str = ""
    listening: bool = False
    """Whether something must listen at the packet's destination, on that address or on all."""


@dataclass(frozen=True, slots=True)
class Jump:
    """The rule of a built-in iptables chain that leads into one of ours (nftables needs none)."""

    builtin: str
    chain: Chain
    comment: str


JUMPS = (
    Jump("PREROUTING", REDIRECT_CHAIN, "proxy-init/install-proxy-init-prerouting"),
    Jump("OUTPUT", OUTPUT_CHAIN, "proxy-init/install-proxy-init-output"),
)


def families(redirect: Redirect) -> tuple[Family, ...]:
    """The address families that are redirected."""
    return ("ipv4", "ipv6") if redirect.ipv6 else ("ipv4",)


def rules(redirect: Redirect) -> tuple[Rule, ...]:
    """All rules, in the order in which they must stand.

    Order and comments are those of Linkerd's proxy-init. Ours are: a subnet goes to its own
    address family alone (there, IPv4 subnets break IPv6), ``skip_outbound_subnets``, and
    ``probe_ports``.

    Raises:
        InvalidRedirectError: a subnet is not a CIDR, or there are more than `MAX_ITEMS` items.
    """
    check_size(redirect)
    return (*_inbound(redirect), *_outbound(redirect))


def check_size(redirect: Redirect) -> None:
    """Refuse more than `MAX_ITEMS` items.

    Raises:
        InvalidRedirectError: there are more.
    """
    if not is_allowed(redirect):
        raise InvalidRedirectError(
            f"the pod's redirection lists {_items(redirect)} ports and subnets, of which "
            f"{MAX_ITEMS} are allowed: write neighbouring ports as ranges"
        )


def is_allowed(redirect: Redirect) -> bool:
    """Whether it holds no more than `MAX_ITEMS` items."""
    return _items(redirect) <= MAX_ITEMS


def is_worth_keeping(redirect: Redirect) -> bool:
    """Whether it is of common size, so that many pods share what is made of it.

    A pod's annotation must not decide how much memory the agent keeps.
    """
    return _items(redirect) <= _KEPT_ITEMS


def _items(redirect: Redirect) -> int:
    ports = (redirect.skip_inbound_ports, redirect.skip_outbound_ports, redirect.only_inbound_ports)
    subnets = (redirect.skip_subnets, redirect.skip_outbound_subnets)
    return sum(map(len, ports + subnets)) + len(redirect.probe_ports)


def rules_of(redirect: Redirect, family: Family) -> tuple[Rule, ...]:
    """The rules that one address family gets, for backends with a table for each."""
    if family not in families(redirect):
        return ()
    return tuple(rule for rule in rules(redirect) if rule.family in (None, family))


def _inbound(redirect: Redirect) -> Iterator[Rule]:
    yield from _ignored_ports(REDIRECT_CHAIN, redirect.skip_inbound_ports)
    for cidr, subnet, family in _subnets(redirect, redirect.skip_subnets):
        yield Rule(
            chain=REDIRECT_CHAIN,
            comment=f"proxy-init/ignore-subnet-{cidr}",
            family=family,
            source=subnet,
        )
    yield from probed(redirect)
    only_family: Family | None = None if redirect.ipv6 else "ipv4"
    for port in redirect.only_inbound_ports:
        yield Rule(
            chain=REDIRECT_CHAIN,
            comment=f"proxy-init/redirect-port-{port}-to-proxy-port",
            redirect_to=redirect.inbound_port,
            family=only_family,
            tcp=True,
            port=port,
        )
    if not redirect.only_inbound_ports:
        yield Rule(
            chain=REDIRECT_CHAIN,
            comment="proxy-init/redirect-all-incoming-to-proxy-port",
            redirect_to=redirect.inbound_port,
            family=only_family,
            tcp=True,
        )


def probed(redirect: Redirect) -> Iterator[Rule]:
    """The ports that the kubelet probes by connecting: what is closed refuses, as it does without
    a proxy, which would accept in its place."""
    only = redirect.only_inbound_ports
    for number in redirect.probe_ports:
        if only and not any(each.lower <= number <= each.upper for each in only):
            continue
        port = PortRange(number, number)
        yield Rule(
            chain=REDIRECT_CHAIN,
            comment=f"proxy-init/redirect-probed-port-{number}-to-proxy-port",
            redirect_to=redirect.inbound_port,
            family=None if redirect.ipv6 else "ipv4",
            tcp=True,
            port=port,
            listening=True,
        )
        yield Rule(
            chain=REDIRECT_CHAIN,
            comment=f"proxy-init/ignore-closed-port-{number}",
            tcp=True,
            port=port,
        )


def _outbound(redirect: Redirect) -> Iterator[Rule]:
    if redirect.proxy_uid > 0:
        yield Rule(
            chain=OUTPUT_CHAIN, comment="proxy-init/ignore-proxy-user-id", uid=redirect.proxy_uid
        )
    # Group 0 is root's: a rule for it would let half of all images past the proxy.
    if redirect.proxy_gid:
        yield Rule(
            chain=OUTPUT_CHAIN, comment="proxy-init/ignore-proxy-group-id", gid=redirect.proxy_gid
        )
    yield Rule(chain=OUTPUT_CHAIN, comment="proxy-init/ignore-loopback", out_interface="lo")
    yield from _ignored_ports(OUTPUT_CHAIN, redirect.skip_outbound_ports)
    for cidr, subnet, family in _subnets(redirect, redirect.skip_outbound_subnets):
        yield Rule(
            chain=OUTPUT_CHAIN,
            comment=f"proxy-init/ignore-subnet-{cidr}",
            family=family,
            destination=subnet,
        )
    yield Rule(
        chain=OUTPUT_CHAIN,
        comment="proxy-init/redirect-all-outgoing-to-proxy-port",
        redirect_to=redirect.outbound_port,
        family=None if redirect.ipv6 else "ipv4",
        tcp=True,
    )


def _ignored_ports(chain: Chain, ports: Iterable[PortRange]) -> Iterator[Rule]:
    for group in port_groups(ports):
        yield Rule(
            chain=chain,
            comment=f"proxy-init/ignore-port-{','.join(map(port_text, group))}",
            tcp=True,
            ports=group,
        )


def port_groups(ports: Iterable[PortRange]) -> Iterator[tuple[PortRange, ...]]:
    """The ports, in order, in groups that each fit one multiport match of iptables."""
    group: list[PortRange] = []
    used = 0
    for port in ports:
        slots = 1 if port.lower == port.upper else 2
        if used + slots > MULTIPORT_SLOTS:
            yield tuple(group)
            group, used = [], 0
        group.append(port)
        used += slots
    if group:
        yield tuple(group)


def port_text(port: PortRange) -> str:
    """A port or range as iptables writes it: ``80``, ``4000:5000``."""
    return str(port.lower) if port.lower == port.upper else f"{port.lower}:{port.upper}"


def _subnets(redirect: Redirect, cidrs: Iterable[str]) -> Iterator[tuple[str, str, Family]]:
    """Of the redirected families: each CIDR as written, normalised, and its family."""
    for cidr in cidrs:
        # Python takes any text for the name of an interface, and any number of zeros, and all of
        # it would be in the comment of a rule.
        try:
            if "%" in cidr or len(cidr) > _LONGEST_CIDR:
                raise ValueError(cidr)
            network = ipaddress.ip_network(cidr, strict=False)
        except ValueError as error:
            shown = cidr[:_LONGEST_CIDR]
            raise InvalidRedirectError(f"{shown!r} is not a valid CIDR address") from error
        family: Family = "ipv4" if network.version == 4 else "ipv6"
        if family in families(redirect):
            yield cidr, str(network), family


def argv(rule: Rule) -> list[str]:
    """The rule as arguments of iptables, in the order in which Linkerd's proxy-init gives them."""
    return [
        "-A",
        rule.chain,
        *_match_argv(rule),
        *_target_argv(rule),
        *(["-s", rule.source] if rule.source else []),
        *(["-d", rule.destination] if rule.destination else []),
        *_comment_argv(rule.comment),
    ]


def jump_argv(jump: Jump) -> list[str]:
    """The jump as arguments of iptables."""
    return ["-A", jump.builtin, "-j", jump.chain, *_comment_argv(jump.comment)]


def commands(redirect: Redirect, family: Family) -> Iterator[list[str]]:
    """What Linkerd's proxy-init would run for a family, without the program's name."""
    own = rules_of(redirect, family)
    for jump in JUMPS if own else ():
        yield ["-t", "nat", "-N", jump.chain]
        yield from (["-t", "nat", *argv(rule)] for rule in own if rule.chain == jump.chain)
        yield ["-t", "nat", *jump_argv(jump)]


def _match_argv(rule: Rule) -> list[str]:
    words = ["-p", "tcp"] if rule.tcp else []
    if rule.source or rule.destination:
        words = ["-p", "all"]
    if rule.ports:
        words += ["--match", "multiport", "--dports", ",".join(map(port_text, rule.ports))]
    if rule.port is not None:
        words += ["--destination-port", port_text(rule.port)]
    if rule.listening:
        words += ["-m", "socket", "--nowildcard"]
    if rule.uid is not None:
        words += ["-m", "owner", "--uid-owner", str(rule.uid)]
    if rule.gid is not None:
        words += ["-m", "owner", "--gid-owner", str(rule.gid)]
    if rule.out_interface:
        words += ["-o", rule.out_interface]
    return words


def _target_argv(rule: Rule) -> list[str]:
    if rule.redirect_to is None:
        return ["-j", "RETURN"]
    return ["-j", "REDIRECT", "--to-port", str(rule.redirect_to)]


def _comment_argv(comment: str) -> list[str]:
    return ["-m", "comment", "--comment", comment]
