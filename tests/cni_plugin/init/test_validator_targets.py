"""What the validator tries, for pods of any shape."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cni_plugin.dataplane.addresses import Network
from cni_plugin.init.validator_targets import Address, Wanted, parse_address, plan
from tests.cni_plugin.redirects import any_redirect
from vocabulary.annotations.redirect import Redirect


def pod(addresses: str, routes: str) -> Network:
    """From words with spaces between."""
    return Network(
        frozenset(map(ipaddress.ip_address, addresses.split())),
        tuple(map(ipaddress.ip_network, routes.split())),
    )


DUAL = pod("10.0.0.5 fd00::5", "0.0.0.0/0 10.0.0.0/24 ::/0 fd00::/64 fe80::/64")
V4, V6 = Address("0.0.0.0", 4140), Address("::", 4140)


@pytest.mark.parametrize(
    ("wanted", "network", "listens"),
    [
        (Wanted(), DUAL, [V4, V6]),
        (Wanted(listen=V6), DUAL, [V4, V6]),
        (Wanted(listen=V4), DUAL, [V4]),
        (Wanted(listen=Address("::", 5140)), DUAL, [Address("0.0.0.0", 5140), Address("::", 5140)]),
        (Wanted(listen=Address("10.0.0.5", 1)), DUAL, [Address("10.0.0.5", 1)]),
        (Wanted(), pod("10.0.0.5", "0.0.0.0/0 fe80::/64"), [V4]),
        (Wanted(listen=V6), pod("10.0.0.5", "0.0.0.0/0"), [V4]),
        (Wanted(), pod("fd00::5", "::/0"), [V6]),
        (Wanted(redirect=Redirect(inbound_port=1, outbound_port=4140)), DUAL, [V4]),
        (
            Wanted(redirect=Redirect(inbound_port=1, outbound_port=7, ipv6=True)),
            DUAL,
            [Address("0.0.0.0", 7), Address("::", 7)],
        ),
    ],
)
def test_each_family_of_the_pod_and_the_mesh_is_tried(
    wanted: Wanted, network: Network, listens: list[Address]
) -> None:
    assert [target.listen for target in plan(wanted, network).targets] == listens


def first(wanted: Wanted, network: Network) -> str:
    return str(plan(wanted, network).targets[0].destinations[0])


@pytest.mark.parametrize(
    ("wanted", "network", "destination"),
    [
        (Wanted(), DUAL, "192.0.2.2:1404"),
        (Wanted(connect=parse_address("1.1.1.1:20001")), DUAL, "1.1.1.1:20001"),
        # The other family has its own.
        (Wanted(connect=parse_address("[fd00::1]:20001")), DUAL, "192.0.2.2:1404"),
        # Without a default route: a neighbour, never the pod itself.
        (Wanted(), pod("10.0.0.1", "10.0.0.0/24"), "10.0.0.2:1404"),
        (
            Wanted(connect=parse_address("1.1.1.1:1")),
            pod("10.0.0.5", "10.0.0.0/24"),
            "10.0.0.1:1404",
        ),
        (Wanted(), pod("10.0.0.5", "169.254.1.1/32"), "169.254.1.1:1404"),
        (Wanted(), pod("10.0.0.0", "10.0.0.0/31"), "10.0.0.1:1404"),
        (Wanted(), pod("fd00::1", "fd00::/64 fe80::/64"), "[fd00::2]:1404"),
    ],
)
def test_destinations_have_a_route(wanted: Wanted, network: Network, destination: str) -> None:
    assert first(wanted, network) == destination


@pytest.mark.parametrize(
    ("network", "problem"),
    [
        (pod("", ""), "this pod has no address"),
        (pod("", "fe80::/64"), "this pod has no address"),
        (pod("10.0.0.5", ""), "IPv4: the pod has no route"),
    ],
)
def test_a_pod_without_a_network_is_a_problem_of_the_primary_plugin(
    network: Network, problem: str
) -> None:
    found = plan(Wanted(), network)
    assert found.targets == ()
    assert problem in found.problem
    assert "Look at the primary CNI plugin" in found.problem


@settings(max_examples=60, deadline=None)
@given(
    any_redirect,
    st.lists(st.ip_addresses(), max_size=3).map(frozenset),
    st.lists(st.tuples(st.ip_addresses(), st.integers(0, 32)), max_size=4),
)
def test_what_is_tried_is_routed_foreign_and_not_skipped(
    redirect: Redirect,
    addresses: frozenset[ipaddress.IPv4Address | ipaddress.IPv6Address],
    prefixes: list[tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]],
) -> None:
    routes = tuple(ipaddress.ip_network(each, strict=False) for each in prefixes)
    for target in plan(Wanted(redirect=redirect), Network(addresses, routes)).targets:
        for address in target.destinations:
            ip = ipaddress.ip_address(address.host)
            assert ip not in addresses
            assert any(ip in route for route in routes)
            assert not any(
                each.lower <= address.port <= each.upper for each in redirect.skip_outbound_ports
            )
            assert not any(
                ip in ipaddress.ip_network(each, strict=False)
                for each in redirect.skip_outbound_subnets
            )
