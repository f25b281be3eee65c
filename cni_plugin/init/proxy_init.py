"""The init container's command: Linkerd's proxy-init over our backends, in its own namespace."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TextIO

from cni_plugin.dataplane.backends import Mode, choose, mode_of
from cni_plugin.dataplane.errors import DataplaneError
from cni_plugin.dataplane.netns import OWN_NETNS, entered, open_netns
from cni_plugin.dataplane.rules import commands, families
from vocabulary.annotations.redirect import BadRedirect, PortRange, Redirect, parse_redirect
from vocabulary.errors import MeshgraftError

MAX_PORT = 65535
MAX_ID = 4294967294
CLOSE_WAIT_SYSCTL = Path("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait")
_PROGRAMS = {"ipv4": "iptables", "ipv6": "ip6tables"}
_FIREWALL_BIN_PATHS: dict[str, Mode] = {
    "": "auto",
    "iptables": "auto",
    "iptables-nft": "nft",
    "iptables-legacy": "legacy",
}
_LEVELS = {"trace": 0, "debug": 1, "info": 2, "warn": 3, "warning": 3, "error": 4}
"""Lower is chattier."""
_MUTE = ("fatal", "panic")
"""Linkerd knows these too; they let nothing of ours through."""


class BadFlagError(MeshgraftError, ValueError):
    """A flag's value cannot be used; the text is the one that Linkerd's proxy-init gives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """The flags of Linkerd's proxy-init, as written; ``redirect`` is ours and replaces those that
    say what the rules are. Lists hold single items."""

    incoming_proxy_port: int = -1
    outgoing_proxy_port: int = -1
    proxy_uid: int = -1
    proxy_gid: int = -1
    ports_to_redirect: Sequence[str] = ()
    inbound_ports_to_ignore: Sequence[str] = ()
    outbound_ports_to_ignore: Sequence[str] = ()
    subnets_to_ignore: Sequence[str] = ()
    ipv6: bool = True
    redirect: str = ""
    simulate: bool = False
    netns: str = ""
    timeout_close_wait_secs: int = 0
    iptables_mode: str = ""
    firewall_bin_path: str = ""
    log_format: str = "plain"
    log_level: str = "info"


@dataclass(frozen=True, slots=True)
class Log:
    """Lines for ``kubectl logs``, as text or JSON; a logging library would cost the pod 100 ms."""

    format: str = "plain"
    level: str = "info"
    stream: TextIO | None = None

    def __call__(self, level: Literal["info", "error"], message: str) -> None:
        """Write one line, unless the level is below the one that is wanted."""
        if _LEVELS[level] < _LEVELS.get(self.level, 5):
            return
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = f'time="{now}" level={level} msg={json.dumps(message)}'
        if self.format == "json":
            line = json.dumps({"level": level, "msg": message, "time": now})
        print(line, file=self.stream or sys.stderr, flush=True)


def run(flags: Flags) -> None:
    """Set the rules that the flags describe, or print them under ``simulate``.

    Raises:
        BadFlagError: a flag's value cannot be used; nothing was changed.
        DataplaneError: the rules could not be set.
    """
    if flags.log_level not in (*_LEVELS, *_MUTE):
        raise BadFlagError(f'not a valid logrus Level: "{flags.log_level}"')
    log = Log(flags.log_format, flags.log_level)
    redirect, complaints = redirect_from_flags(flags)
    mode = mode_from_flags(flags.iptables_mode, flags.firewall_bin_path)
    if flags.timeout_close_wait_secs < 0:
        raise BadFlagError("--timeout-close-wait-secs must not be negative")
    for complaint in complaints:
        log("error", complaint)
    if flags.simulate:
        print("\n".join(simulated(redirect)))
        return
    with contextlib.ExitStack() as stack:
        netns_fd = open_netns(flags.netns or OWN_NETNS)
        stack.callback(os.close, netns_fd)
        if flags.timeout_close_wait_secs:
            set_close_wait_timeout(netns_fd, flags.timeout_close_wait_secs)
        backend = choose(mode, once=True)
        changed = backend.apply(netns_fd, redirect)
    log("info", f"{backend.name}: rules {'set' if changed else 'were there already'}")


def simulated(redirect: Redirect) -> list[str]:
    """The rules in the words of iptables, one command a line."""
    return [
        " ".join([_PROGRAMS[family], *words])
        for family in families(redirect)
        for words in commands(redirect, family)
    ]


def set_close_wait_timeout(netns_fd: int, seconds: int) -> None:
    """Set how long conntrack keeps a connection in CLOSE_WAIT, in the namespace.

    Raises:
        DataplaneError: the kernel, or the container's security context, does not let us.
    """
    try:
        with entered(netns_fd):
            CLOSE_WAIT_SYSCTL.write_text(f"{seconds}\n")
    except OSError as error:
        raise DataplaneError(
            f"cannot set {CLOSE_WAIT_SYSCTL} to {seconds}: {error.strerror}; the init container "
            "must be privileged for --timeout-close-wait-secs (proxyInit.privileged)"
        ) from error


def mode_from_flags(iptables_mode: str, firewall_bin_path: str) -> Mode:
    """The backend's mode: ``--iptables-mode`` wins, else the name of the program tells.

    Raises:
        BadFlagError: a value that Linkerd does not know.
    """
    if iptables_mode:
        if iptables_mode not in ("legacy", "nft", "plain"):
            raise BadFlagError('--iptables-mode valid values are only "legacy", "nft" and "plain"')
        return mode_of(iptables_mode)
    if firewall_bin_path not in _FIREWALL_BIN_PATHS:
        raise BadFlagError(
            '--firewall-bin-path valid values are only "iptables-legacy", "iptables-nft" '
            'and "iptables"'
        )
    return _FIREWALL_BIN_PATHS[firewall_bin_path]


def redirect_from_flags(flags: Flags) -> tuple[Redirect, tuple[str, ...]]:
    """The Redirect that the flags describe, and complaints about port items that were left out.

    Raises:
        BadFlagError: a port, id or subnet cannot be used.
    """
    if flags.redirect:
        try:
            return parse_redirect(flags.redirect), ()
        except BadRedirect as error:
            raise BadFlagError(f"--redirect: {error}") from error
    skip_inbound, inbound_complaints = _port_ranges(flags.inbound_ports_to_ignore)
    skip_outbound, outbound_complaints = _port_ranges(flags.outbound_ports_to_ignore)
    redirect = Redirect(
        inbound_port=_proxy_port("--incoming-proxy-port", flags.incoming_proxy_port),
        outbound_port=_proxy_port("--outgoing-proxy-port", flags.outgoing_proxy_port),
        proxy_uid=_owner("--proxy-uid", flags.proxy_uid),
        proxy_gid=_owner("--proxy-gid", flags.proxy_gid) or None,
        only_inbound_ports=tuple(map(_port_to_redirect, flags.ports_to_redirect)),
        skip_inbound_ports=skip_inbound,
        skip_outbound_ports=skip_outbound,
        skip_subnets=tuple(map(_cidr, flags.subnets_to_ignore)),
        ipv6=flags.ipv6,
    )
    return redirect, (*inbound_complaints, *outbound_complaints)


def _proxy_port(flag: str, port: int) -> int:
    if not 1 <= port <= MAX_PORT:
        raise BadFlagError(f"{flag} must be a valid TCP port number")
    return port


def _owner(flag: str, number: int) -> int:
    """A uid or gid; 0 and below mean that there is no rule for it, as in Linkerd."""
    if number > MAX_ID:
        raise BadFlagError(f"{flag} must not be above {MAX_ID}")
    return max(number, 0)


def _port_to_redirect(text: str) -> PortRange:
    port = _port(text.strip())
    if port is None:
        raise BadFlagError(f"--ports-to-redirect: {text!r} is not a valid TCP port")
    return PortRange(port, port)


def _cidr(text: str) -> str:
    """A CIDR with a prefix length, as Go's ``net.ParseCIDR`` wants it; host bits are cleared."""
    address, slash, length = text.strip().partition("/")
    try:
        if not slash or not length.isdecimal() or "%" in address:
            raise ValueError(text)
        return str(ipaddress.ip_network(f"{address}/{length}", strict=False))
    except ValueError:
        raise BadFlagError(f"{text} is not a valid CIDR address") from None


def _port_ranges(items: Iterable[str]) -> tuple[tuple[PortRange, ...], tuple[str, ...]]:
    """The good items, and what is wrong with each of the others."""
    good: list[PortRange] = []
    complaints: list[str] = []
    for item in items:
        try:
            good.append(parse_port_range(item.strip()))
        except ValueError as error:
            complaints.append(f"port {item!r} is left out: {error}")
    return tuple(good), tuple(complaints)


def parse_port_range(text: str) -> PortRange:
    """``80`` or ``4000-5000``.

    Raises:
        ValueError: with Linkerd's words for what is wrong.
    """
    lower_text, dash, upper_text = text.partition("-")
    if not dash:
        port = _port(text)
        if port is None:
            raise ValueError(f'"{text}" is not a valid TCP port')
        return PortRange(port, port)
    if "-" in upper_text:
        raise ValueError("ranges expected as <lower>-<upper>")
    lower, upper = _port(lower_text), _port(upper_text)
    if lower is None:
        raise ValueError(f'"{lower_text}" is not a valid lower-bound')
    if upper is None:
        raise ValueError(f'"{upper_text}" is not a valid upper-bound')
    if upper < lower:
        raise ValueError(f'"{text}": upper-bound must be greater than or equal to lower-bound')
    return PortRange(lower, upper)


def _port(text: str) -> int | None:
    if not text.isascii() or not text.isdecimal():
        return None
    digits = text.lstrip("0") or "0"  # int() raises for thousands of them
    return int(digits) if len(digits) <= 5 and int(digits) <= MAX_PORT else None
