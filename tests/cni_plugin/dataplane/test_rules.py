"""The neutral rules: Linkerd's order, comments and arguments; each subnet in its own family."""

from __future__ import annotations

import ipaddress

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cni_plugin.dataplane.errors import InvalidRedirectError
from cni_plugin.dataplane.rules import (
    MAX_ITEMS,
    OUTPUT_CHAIN,
    REDIRECT_CHAIN,
    argv,
    commands,
    families,
    port_groups,
    rules,
    rules_of,
)
from tests.cni_plugin.redirects import REDIRECTS, any_redirect, ports
from vocabulary.annotations.redirect import PortRange, Redirect


def test_rules_stand_in_the_order_of_proxy_init_with_its_comments() -> None:
    redirect = REDIRECTS["everything"]
    inbound = [rule.comment for rule in rules(redirect) if rule.chain == REDIRECT_CHAIN]
    outbound = [rule.comment for rule in rules(redirect) if rule.chain == OUTPUT_CHAIN]
    assert inbound == [
        "proxy-init/ignore-port-4190,100:200,0,65000:65535",
        "proxy-init/ignore-subnet-10.0.0.0/8",
        "proxy-init/ignore-subnet-fd00::/8",
        "proxy-init/ignore-subnet-192.0.2.7/32",
        "proxy-init/ignore-subnet-2001:db8::1/128",
        "proxy-init/ignore-subnet-10.1.2.0/25",
        "proxy-init/redirect-all-incoming-to-proxy-port",
    ]
    assert outbound == [
        "proxy-init/ignore-proxy-user-id",
        "proxy-init/ignore-proxy-group-id",
        "proxy-init/ignore-loopback",
        "proxy-init/ignore-port-443,5432:5433",
        "proxy-init/ignore-subnet-172.16.0.0/12",
        "proxy-init/ignore-subnet-fd12::/17",
        "proxy-init/redirect-all-outgoing-to-proxy-port",
    ]


def test_listed_ports_take_the_place_of_the_rule_for_all() -> None:
    comments = [rule.comment for rule in rules(REDIRECTS["only-some-inbound"])]
    assert comments[:2] == [
        "proxy-init/redirect-port-80-to-proxy-port",
        "proxy-init/redirect-port-8000-8099-to-proxy-port",
    ]
    assert "proxy-init/redirect-all-incoming-to-proxy-port" not in comments


def test_arguments_are_those_of_proxy_init_in_its_order() -> None:
    lines = [" ".join(words) for words in commands(REDIRECTS["linkerd-default"], "ipv4")]
    comment = "-m comment --comment proxy-init/"
    assert lines == [
        "-t nat -N PROXY_INIT_REDIRECT",
        "-t nat -A PROXY_INIT_REDIRECT -p tcp --match multiport --dports 4190,4191,4567,4568 "
        f"-j RETURN {comment}ignore-port-4190,4191,4567,4568",
        "-t nat -A PROXY_INIT_REDIRECT -p tcp -j REDIRECT --to-port 4143 "
        f"{comment}redirect-all-incoming-to-proxy-port",
        f"-t nat -A PREROUTING -j PROXY_INIT_REDIRECT {comment}install-proxy-init-prerouting",
        "-t nat -N PROXY_INIT_OUTPUT",
        "-t nat -A PROXY_INIT_OUTPUT -m owner --uid-owner 2102 -j RETURN "
        f"{comment}ignore-proxy-user-id",
        f"-t nat -A PROXY_INIT_OUTPUT -o lo -j RETURN {comment}ignore-loopback",
        "-t nat -A PROXY_INIT_OUTPUT -p tcp --match multiport --dports 4567,4568 -j RETURN "
        f"{comment}ignore-port-4567,4568",
        "-t nat -A PROXY_INIT_OUTPUT -p tcp -j REDIRECT --to-port 4140 "
        f"{comment}redirect-all-outgoing-to-proxy-port",
        f"-t nat -A OUTPUT -j PROXY_INIT_OUTPUT {comment}install-proxy-init-output",
    ]


def test_a_subnet_rule_has_its_network_behind_the_target_as_proxy_init_writes_it() -> None:
    redirect = Redirect(inbound_port=1, outbound_port=2, skip_subnets=("10.0.0.0/8",))
    assert " ".join(argv(rules(redirect)[0])) == (
        "-A PROXY_INIT_REDIRECT -p all -j RETURN -s 10.0.0.0/8 "
        "-m comment --comment proxy-init/ignore-subnet-10.0.0.0/8"
    )


@pytest.mark.parametrize(
    ("given_ports", "sizes"),
    [
        (ports(), []),
        (ports(80), [1]),
        (ports(*range(15)), [15]),
        (ports(*range(16)), [15, 1]),
        (ports(*range(14), (100, 200)), [14, 1]),
        (ports(*range(13), (100, 200)), [14]),
        (ports(*((p, p + 1) for p in range(0, 16, 2))), [7, 1]),
    ],
)
def test_port_groups_fill_fifteen_slots_and_a_range_takes_two(
    given_ports: tuple[PortRange, ...], sizes: list[int]
) -> None:
    assert [len(group) for group in port_groups(given_ports)] == sizes


def test_host_bits_are_cleared_but_the_comment_keeps_what_was_written() -> None:
    redirect = Redirect(inbound_port=1, outbound_port=2, skip_subnets=("10.1.2.3/8",))
    rule = rules(redirect)[0]
    assert (rule.source, rule.comment) == ("10.0.0.0/8", "proxy-init/ignore-subnet-10.1.2.3/8")


@pytest.mark.parametrize("field", ["skip_subnets", "skip_outbound_subnets"])
def test_a_subnet_that_is_no_cidr_is_named_in_the_error(field: str) -> None:
    redirect = msgspec.structs.replace(REDIRECTS["minimal"], **{field: ("10.0.0.0/33",)})
    with pytest.raises(InvalidRedirectError, match=r"'10\.0\.0\.0/33' is not a valid CIDR"):
        rules(redirect)


@pytest.mark.parametrize(
    "cidr", ["fe80::1%eth0/64", 'fe80::%a"\n-A x/64', "10.0.0.0/" + "0" * 300 + "8", "x" * 100_000]
)
def test_what_only_python_takes_for_a_cidr_is_refused_in_few_words(cidr: str) -> None:
    redirect = msgspec.structs.replace(REDIRECTS["minimal"], skip_subnets=(cidr,), ipv6=True)
    with pytest.raises(InvalidRedirectError, match="is not a valid CIDR") as caught:
        rules(redirect)
    assert len(str(caught.value)) < 120


def test_more_items_than_the_agent_has_time_for_are_refused() -> None:
    most = tuple(PortRange(port, port) for port in range(MAX_ITEMS))
    redirect = msgspec.structs.replace(REDIRECTS["minimal"], skip_inbound_ports=most)
    assert rules(redirect)
    one_more = msgspec.structs.replace(redirect, skip_subnets=("10.0.0.0/8",))
    with pytest.raises(InvalidRedirectError, match=r"lists 2049 ports and subnets, of which 2048"):
        rules(one_more)


@pytest.mark.parametrize("gid", [None, 0])
def test_group_zero_never_goes_past_the_proxy(gid: int | None) -> None:
    redirect = Redirect(inbound_port=1, outbound_port=2, proxy_gid=gid)
    assert all(rule.gid is None for rule in rules(redirect))


def test_without_ipv6_nothing_is_redirected_there() -> None:
    redirect = Redirect(inbound_port=1, outbound_port=2, skip_subnets=("fd00::/8", "10.0.0.0/8"))
    assert rules_of(redirect, "ipv6") == ()
    assert list(commands(redirect, "ipv6")) == []
    assert {rule.family for rule in rules(redirect) if rule.redirect_to} == {"ipv4"}
    assert not any("fd00" in rule.source for rule in rules(redirect))


@settings(max_examples=100)
@given(any_redirect)
def test_each_family_sees_only_its_own_subnets_and_ends_in_a_redirect(redirect: Redirect) -> None:
    for family in families(redirect):
        own = rules_of(redirect, family)
        networks = [
            ipaddress.ip_network(r.source or r.destination)
            for r in own
            if r.family and (r.source or r.destination)
        ]
        assert all(network.version == (4 if family == "ipv4" else 6) for network in networks)
        for chain in (REDIRECT_CHAIN, OUTPUT_CHAIN):
            in_chain = [rule for rule in own if rule.chain == chain]
            assert in_chain[-1].redirect_to is not None
            probed = ("proxy-init/redirect-probed-", "proxy-init/ignore-closed-")
            others = [rule for rule in in_chain if not rule.comment.startswith(probed)]
            verdicts = [rule.redirect_to is None for rule in others]
            assert verdicts == sorted(verdicts, reverse=True), "no RETURN behind a redirect"


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 65535), st.integers(0, 9)), max_size=60))
def test_port_groups_lose_nothing_and_keep_the_order(pairs: list[tuple[int, int]]) -> None:
    given_ports = [PortRange(lower, min(65535, lower + more)) for lower, more in pairs]
    groups = list(port_groups(given_ports))
    assert [port for group in groups for port in group] == given_ports
    for group in groups:
        assert 1 <= sum(1 if p.lower == p.upper else 2 for p in group) <= 15
