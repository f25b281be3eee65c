"""Builds the finished `Redirect` of a pod from the settings, for the CNI plugin to apply.

It says the same as the arguments of Linkerd's ``proxy-init`` for the same settings: the proxy's
control and admin ports are never redirected, and neither are the ports to be skipped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from injector.core.model import Object
from injector.core.ports import tcp_probe_ports
from injector.core.values import Values
from vocabulary.annotations import BadItems, PortRange, Redirect, parse_cidr_list, parse_port_list
from vocabulary.annotations.parse import shortened

T = TypeVar("T")


def _lenient(
    path: str, text: str, parse: Callable[[str], tuple[T, ...]], warnings: list[str]
) -> tuple[T, ...]:
    """The good items of a list that the settings hold; the bad ones become a warning.

    Annotations were checked before they came here, so that what is bad came from the values file.
    """
    try:
        return parse(text)
    except BadItems as error:
        warnings.append(f"values: {path}: {shortened(text)!r}: expected {error}")
        good: tuple[T, ...] = error.good
        return good


def redirect_for(values: Values, pod: Object) -> tuple[Redirect, tuple[str, ...]]:
    """The traffic rules that these settings ask for, and this pod's probes need; and warnings about
    list items left out."""
    warnings: list[str] = []
    ports, init = values.proxy.ports, values.proxy_init

    def port_list(path: str, text: str) -> tuple[PortRange, ...]:
        return _lenient(path, text, parse_port_list, warnings)

    def cidr_list(path: str, text: str) -> tuple[str, ...]:
        return _lenient(path, text, parse_cidr_list, warnings)

    own = (PortRange(ports.control, ports.control), PortRange(ports.admin, ports.admin))
    ignored = port_list("proxyInit.ignoreInboundPorts", init.ignore_inbound_ports)
    outbound = port_list("proxyInit.ignoreOutboundPorts", init.ignore_outbound_ports)
    subnets = values.meshgraft.skip_outbound_subnets
    redirect = Redirect(
        inbound_port=ports.inbound,
        outbound_port=ports.outbound,
        proxy_uid=values.proxy.uid,
        proxy_gid=values.proxy.gid if values.proxy.gid >= 0 else None,
        skip_inbound_ports=own + ignored,
        skip_outbound_ports=outbound,
        skip_subnets=cidr_list("proxyInit.skipSubnets", init.skip_subnets),
        skip_outbound_subnets=cidr_list("meshgraft.skipOutboundSubnets", subnets),
        probe_ports=tcp_probe_ports(pod),
        ipv6=not values.disable_ipv6,
    )
    return redirect, tuple(warnings)
