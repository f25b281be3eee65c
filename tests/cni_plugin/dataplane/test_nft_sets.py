"""Long lists as sets of intervals: the same traffic as rule by rule, in little of the time."""

from __future__ import annotations

import ipaddress
import itertools
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_plugin.dataplane import nft_encode
from cni_plugin.dataplane.errors import InvalidRedirectError
from cni_plugin.dataplane.intervals import Interval, port_intervals, subnet_intervals
from cni_plugin.dataplane.nft import NftBackend
from cni_plugin.dataplane.nft_decode import SetState, messages, table_state
from cni_plugin.dataplane.nft_sets import IntervalSet, set_messages
from cni_plugin.dataplane.rules import MAX_ITEMS
from meshgraft.lab.netns import Netns
from vocabulary.annotations.redirect import PortRange, Redirect

port_ranges = st.lists(
    st.tuples(st.integers(0, 65535), st.integers(0, 40)).map(
        lambda given: PortRange(given[0], min(65535, given[0] + given[1]))
    ),
    max_size=30,
)


def contains(intervals: tuple[Interval, ...], key: bytes) -> bool:
    return any(low <= key <= high for low, high in intervals)


def assert_apart(intervals: tuple[Interval, ...]) -> None:
    for one, other in itertools.pairwise(intervals):
        assert int.from_bytes(one.high) + 1 < int.from_bytes(other.low)


class TestIntervals:
    @given(port_ranges)
    def test_ports_are_in_them_that_were_in_the_list_and_no_others(
        self, ports: list[PortRange]
    ) -> None:
        intervals = port_intervals(ports)
        assert_apart(intervals)
        edges = {port for each in ports for port in (each.lower, each.upper)}
        for port in {near for edge in edges for near in (edge - 1, edge, edge + 1)} & {
            *range(65536)
        }:
            listed = any(each.lower <= port <= each.upper for each in ports)
            assert contains(intervals, port.to_bytes(2)) == listed

    @given(st.lists(st.ip_addresses().flatmap(lambda ip: st.tuples(
        st.just(ip), st.integers(0, ip.max_prefixlen))), max_size=20))  # fmt: skip
    def test_addresses_are_in_them_that_were_in_a_subnet_and_no_others(
        self, given_pairs: list[tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]]
    ) -> None:
        cidrs = [f"{address}/{prefix}" for address, prefix in given_pairs]
        networks = [ipaddress.ip_network(cidr, strict=False) for cidr in cidrs]
        by_version = dict(zip((4, 6), subnet_intervals(cidrs), strict=True))
        for intervals in by_version.values():
            assert_apart(intervals)
        for network in networks:
            for address in (network[0], network[-1]):
                assert contains(by_version[network.version], address.packed)
            after = int(network[-1]) + 1
            if after < 1 << network.max_prefixlen:
                outside = type(network[0])(after)
                listed = any(
                    outside in other for other in networks if other.version == network.version
                )
                assert contains(by_version[network.version], outside.packed) == listed

    @pytest.mark.parametrize(
        "cidr",
        ["", "10.0.0.1/33", "fd00::/129", "10.0.0.0/-1", "10.0.0.0/", "10.0.0/8", "x", "::1%lo",
         "10.0.0.0/0000008", "10.0.0.0/8 ", "10.0.0.0/٣"],
    )  # fmt: skip
    def test_what_is_no_cidr_is_named(self, cidr: str) -> None:
        with pytest.raises(InvalidRedirectError, match="is not a valid CIDR address"):
            subnet_intervals([cidr])


@given(port_ranges.filter(bool))
def test_a_set_reads_back_as_it_was_written(ports: list[PortRange]) -> None:
    wanted = IntervalSet("s", port_intervals(ports))
    data = b"".join(data for _, data in set_messages("t", wanted, 1))
    table = nft_encode._table(0, "t")
    found = table_state("t", [*messages(table), *messages(data)])
    assert found is not None
    expected = {(each.low, False) for each in wanted.intervals}
    ends = (int.from_bytes(each.high) + 1 for each in wanted.intervals)
    expected |= {(end.to_bytes(2), True) for end in ends if end < 1 << 16}
    assert {*found.sets} == {"s"}
    constant, interval = 2, 4
    assert found.sets["s"] == SetState(2, constant | interval, frozenset(expected))


def long_redirect(number: int = 0) -> Redirect:
    """As many items as are allowed, none of which can be merged, in lists of every kind."""
    return Redirect(
        inbound_port=4143,
        outbound_port=4140,
        proxy_uid=2102,
        skip_inbound_ports=tuple(PortRange(port, port) for port in range(1, 1001, 2)),
        only_inbound_ports=tuple(PortRange(port, port) for port in range(2001 + number, 2601, 2))[
            :200
        ],
        skip_outbound_ports=tuple(PortRange(port, port + 1) for port in range(3001, 4501, 3)),
        skip_subnets=tuple(f"10.{each // 100}.{each % 100 * 2}.0/24" for each in range(400)),
        skip_outbound_subnets=(
            *(f"fd00:{each * 2:x}::/32" for each in range(440)),
            "0.0.0.0/1",
            "255.255.255.255/32",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        ),
        ipv6=True,
    )


@pytest.mark.root
class TestInTheKernel:
    def test_it_takes_them_and_shows_them_as_they_are(self, netns: Netns) -> None:
        backend, redirect = NftBackend(), long_redirect()
        assert backend.apply(netns.fd, redirect) is True
        assert backend.difference(netns.fd, redirect) is None
        assert backend.apply(netns.fd, redirect) is False

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            (
                lambda text: text.replace(" 999 }", " 1000 }"),
                "set inet meshgraft skip-inbound-ports",
            ),
            (
                lambda text: text.replace("@skip-outbound-ports", "@skip-inbound-ports"),
                "changed rule",
            ),
            (
                lambda text: text.replace('return comment "proxy-init/ignore-ports"', "return"),
                "rule",
            ),
        ],
    )
    def test_tampering_is_found_and_put_right(
        self, change: Callable[[str], str], says: str, netns: Netns
    ) -> None:
        backend, redirect = NftBackend(), long_redirect()
        backend.apply(netns.fd, redirect)
        listing = netns.run("nft", "list", "ruleset")
        changed = change(listing)
        assert changed != listing
        netns.run("nft", "delete", "table", "inet", "meshgraft")
        netns.run("sh", "-c", f"echo '{changed}' | nft -f -")
        assert says in (backend.difference(netns.fd, redirect) or "")
        assert backend.apply(netns.fd, redirect) is True
        assert backend.difference(netns.fd, redirect) is None

    def test_a_long_one_and_a_short_one_replace_each_other(self, netns: Netns) -> None:
        backend, short = NftBackend(), Redirect(inbound_port=1, outbound_port=2)
        for redirect in (short, long_redirect(), short):
            assert backend.apply(netns.fd, redirect) is True
            assert backend.difference(netns.fd, redirect) is None

    def test_the_longest_costs_little(self, netns: Netns) -> None:
        """Of this thread's CPU, the kernel's part included. 1.1 s when each item was a rule."""
        backend = NftBackend()
        backend.apply(netns.fd, long_redirect())
        costs = []
        for number in range(2, 8, 2):
            redirect = long_redirect(number)
            started = time.thread_time()
            assert backend.apply(netns.fd, redirect) is True
            costs.append(time.thread_time() - started)
        assert min(costs) < 0.05


def test_more_than_is_allowed_is_refused() -> None:
    many = tuple(f"10.{each // 256}.{each % 256}.0/24" for each in range(MAX_ITEMS + 1))
    with pytest.raises(InvalidRedirectError, match="of which 2048 are allowed"):
        nft_encode.plan(Redirect(inbound_port=1, outbound_port=2, skip_subnets=many))
