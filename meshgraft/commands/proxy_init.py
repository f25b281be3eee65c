"""``meshgraft proxy-init``: the flags of Linkerd's proxy-init."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from cyclopts import Parameter

from cni_plugin.init.proxy_init import Flags, run

_Switch = Parameter(negative="")
_List = Parameter(negative="", consume_multiple=False)


def proxy_init(
    *,
    incoming_proxy_port: Annotated[int, Parameter(alias="-p")] = -1,
    outgoing_proxy_port: Annotated[int, Parameter(alias="-o")] = -1,
    proxy_uid: Annotated[int, Parameter(alias="-u", allow_leading_hyphen=True)] = -1,
    proxy_gid: Annotated[int, Parameter(alias="-g", allow_leading_hyphen=True)] = -1,
    ports_to_redirect: Annotated[list[str], _List, Parameter(alias="-r")] = [],  # noqa: B006
    inbound_ports_to_ignore: Annotated[list[str], _List] = [],  # noqa: B006
    outbound_ports_to_ignore: Annotated[list[str], _List] = [],  # noqa: B006
    subnets_to_ignore: Annotated[list[str], _List] = [],  # noqa: B006
    ipv6: Annotated[bool, _Switch] = True,
    redirect: str = "",
    simulate: Annotated[bool, _Switch] = False,
    netns: str = "",
    timeout_close_wait_secs: int = 0,
    iptables_mode: str = "",
    firewall_bin_path: str = "",
    firewall_save_bin_path: str = "",  # noqa: ARG001
    use_wait_flag: Annotated[bool, _Switch, Parameter(alias="-w")] = False,  # noqa: ARG001
    log_format: str = "plain",
    log_level: str = "info",
) -> None:
    """Redirect this pod's traffic to its proxy, from an init container.

    Parameters
    ----------
    incoming_proxy_port
        Port to redirect incoming traffic to.
    outgoing_proxy_port
        Port to redirect outgoing traffic to.
    proxy_uid
        User ID that the proxy runs under; what it sends is not redirected.
    proxy_gid
        Group ID that the proxy runs under; what it sends is not redirected.
    ports_to_redirect
        Redirect only these incoming ports; all where none is given.
    inbound_ports_to_ignore
        Incoming ports and ranges (LOWER-UPPER) that are not redirected.
    outbound_ports_to_ignore
        Outgoing ports and ranges (LOWER-UPPER) that are not redirected.
    subnets_to_ignore
        CIDRs from which incoming traffic is not redirected.
    ipv6
        Redirect IPv6 as well as IPv4.
    redirect
        The rules as JSON, as in the annotation meshgraft.io/redirect, in place of the flags above.
    simulate
        Print the rules, change nothing.
    netns
        Path of the network namespace; by default the one that this runs in.
    timeout_close_wait_secs
        Also set nf_conntrack_tcp_timeout_close_wait to this many seconds.
    iptables_mode
        legacy, nft or plain; wins over --firewall-bin-path.
    firewall_bin_path
        iptables-legacy, iptables-nft or iptables; tells the mode. No program is run.
    firewall_save_bin_path
        Accepted for Linkerd's sake, without effect.
    use_wait_flag
        Accepted for Linkerd's sake, without effect: there is no xtables lock to wait for.
    log_format
        plain or json.
    log_level
        trace, debug, info, warn, error, fatal or panic.
    """
    flags = Flags(
        incoming_proxy_port=incoming_proxy_port,
        outgoing_proxy_port=outgoing_proxy_port,
        proxy_uid=proxy_uid,
        proxy_gid=proxy_gid,
        ports_to_redirect=_split(ports_to_redirect),
        inbound_ports_to_ignore=_split(inbound_ports_to_ignore),
        outbound_ports_to_ignore=_split(outbound_ports_to_ignore),
        subnets_to_ignore=_split(subnets_to_ignore),
        ipv6=ipv6,
        redirect=redirect,
        simulate=simulate,
        netns=netns,
        timeout_close_wait_secs=timeout_close_wait_secs,
        iptables_mode=iptables_mode,
        firewall_bin_path=firewall_bin_path,
        log_format=log_format,
        log_level=log_level,
    )
    run(flags)


def _split(values: Iterable[str]) -> tuple[str, ...]:
    """List flags may be repeated and hold commas, both."""
    return tuple(item for value in values for item in value.split(",") if item.strip())
