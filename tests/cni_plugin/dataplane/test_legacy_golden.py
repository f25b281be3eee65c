"""After the legacy backend, iptables-save reads as after Linkerd's proxy-init, rule by rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace

import pytest
from hypothesis import given, settings

from cni_plugin.dataplane.legacy import LegacyBackend
from cni_plugin.dataplane.legacy_encode import ABSENT, canonical, entry, wanted
from cni_plugin.dataplane.rules import Family, commands, families, rules_of
from meshgraft.lab.netns import Netns
from tests.cni_plugin.redirects import REDIRECTS, any_redirect, ports
from vocabulary.annotations.redirect import Redirect

PROGRAMS: dict[Family, str] = {"ipv4": "iptables-legacy", "ipv6": "ip6tables-legacy"}

GOLDEN = """\
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:PROXY_INIT_OUTPUT - [0:0]
:PROXY_INIT_REDIRECT - [0:0]
-A PREROUTING -m comment --comment "proxy-init/install-proxy-init-prerouting" \
-j PROXY_INIT_REDIRECT
-A OUTPUT -m comment --comment "proxy-init/install-proxy-init-output" -j PROXY_INIT_OUTPUT
-A PROXY_INIT_OUTPUT -m owner --uid-owner 2102 \
-m comment --comment "proxy-init/ignore-proxy-user-id" -j RETURN
-A PROXY_INIT_OUTPUT -o lo -m comment --comment "proxy-init/ignore-loopback" -j RETURN
-A PROXY_INIT_OUTPUT -p tcp -m multiport --dports 4567,4568 \
-m comment --comment "proxy-init/ignore-port-4567,4568" -j RETURN
-A PROXY_INIT_OUTPUT -p tcp \
-m comment --comment "proxy-init/redirect-all-outgoing-to-proxy-port" \
-j REDIRECT --to-ports 4140
-A PROXY_INIT_REDIRECT -p tcp -m multiport --dports 4190,4191,4567,4568 \
-m comment --comment "proxy-init/ignore-port-4190,4191,4567,4568" -j RETURN
-A PROXY_INIT_REDIRECT -p tcp \
-m comment --comment "proxy-init/redirect-all-incoming-to-proxy-port" \
-j REDIRECT --to-ports 4143
COMMIT"""


WHOLE = Redirect(
    inbound_port=4143,
    outbound_port=4140,
    proxy_uid=2102,
    proxy_gid=2103,
    skip_inbound_ports=ports(4190, 4191, (100, 200), *range(1001, 1013)),
    skip_outbound_ports=ports(443, (5432, 5433)),
    skip_subnets=("10.0.0.0/8", "192.0.2.7/32", "fd00::/8"),
    ipv6=True,
)
"""All that proxy-init can be told except for a list of ports to redirect; 16 slots of multiport."""

WHOLE_GOLDEN = """\
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:PROXY_INIT_OUTPUT - [0:0]
:PROXY_INIT_REDIRECT - [0:0]
-A PREROUTING -m comment --comment "proxy-init/install-proxy-init-prerouting" \
-j PROXY_INIT_REDIRECT
-A OUTPUT -m comment --comment "proxy-init/install-proxy-init-output" -j PROXY_INIT_OUTPUT
-A PROXY_INIT_OUTPUT -m owner --uid-owner 2102 \
-m comment --comment "proxy-init/ignore-proxy-user-id" -j RETURN
-A PROXY_INIT_OUTPUT -m owner --gid-owner 2103 \
-m comment --comment "proxy-init/ignore-proxy-group-id" -j RETURN
-A PROXY_INIT_OUTPUT -o lo -m comment --comment "proxy-init/ignore-loopback" -j RETURN
-A PROXY_INIT_OUTPUT -p tcp -m multiport --dports 443,5432:5433 \
-m comment --comment "proxy-init/ignore-port-443,5432:5433" -j RETURN
-A PROXY_INIT_OUTPUT -p tcp \
-m comment --comment "proxy-init/redirect-all-outgoing-to-proxy-port" \
-j REDIRECT --to-ports 4140
-A PROXY_INIT_REDIRECT -p tcp -m multiport --dports \
4190,4191,100:200,1001,1002,1003,1004,1005,1006,1007,1008,1009,1010,1011 \
-m comment --comment "proxy-init/ignore-port-\
4190,4191,100:200,1001,1002,1003,1004,1005,1006,1007,1008,1009,1010,1011" -j RETURN
-A PROXY_INIT_REDIRECT -p tcp -m multiport --dports 1012 \
-m comment --comment "proxy-init/ignore-port-1012" -j RETURN
{subnets}-A PROXY_INIT_REDIRECT -p tcp \
-m comment --comment "proxy-init/redirect-all-incoming-to-proxy-port" \
-j REDIRECT --to-ports 4143
COMMIT"""

SUBNETS: dict[Family, tuple[str, ...]] = {
    "ipv4": ("10.0.0.0/8", "192.0.2.7/32"),
    "ipv6": ("fd00::/8",),
}
"""Each where it belongs; proxy-init gives all to both families, and fails on that."""

LISTED = Redirect(inbound_port=4143, outbound_port=4140, only_inbound_ports=ports(80, 8080))
LISTED_RULES = """\
-A PROXY_INIT_REDIRECT -p tcp -m tcp --dport 80 \
-m comment --comment "proxy-init/redirect-port-80-to-proxy-port" -j REDIRECT --to-ports 4143
-A PROXY_INIT_REDIRECT -p tcp -m tcp --dport 8080 \
-m comment --comment "proxy-init/redirect-port-8080-to-proxy-port" -j REDIRECT --to-ports 4143
"""


@pytest.fixture(scope="module")
def backend() -> Iterator[LegacyBackend]:
    with closing(LegacyBackend()) as backend:
        reason = backend.unavailable()
        if reason is not None:
            pytest.skip(f"legacy iptables: {reason}")
        yield backend


def saved(netns: Netns, family: Family) -> str:
    lines = netns.run(f"{PROGRAMS[family]}-save", "-t", "nat").splitlines()
    return "\n".join(line for line in lines if not line.startswith("#"))


def run_proxy_init(netns: Netns, redirect: Redirect) -> None:
    """What Linkerd's proxy-init does: one run of iptables for each rule."""
    for family in families(redirect):
        for words in commands(redirect, family):
            netns.run(PROGRAMS[family], *words)


@pytest.mark.root
def test_the_default_rules_read_as_after_proxy_init(backend: LegacyBackend, netns: Netns) -> None:
    backend.apply(netns.fd, REDIRECTS["linkerd-default"])
    assert saved(netns, "ipv4") == GOLDEN


@pytest.mark.root
@pytest.mark.parametrize("family", PROGRAMS)
def test_all_other_rules_read_as_after_proxy_init(
    backend: LegacyBackend, netns: Netns, family: Family
) -> None:
    backend.apply(netns.fd, WHOLE)
    subnets = "".join(
        f"-A PROXY_INIT_REDIRECT -s {subnet} "
        f'-m comment --comment "proxy-init/ignore-subnet-{subnet}" -j RETURN\n'
        for subnet in SUBNETS[family]
    )
    assert saved(netns, family) == WHOLE_GOLDEN.format(subnets=subnets)


@pytest.mark.root
def test_listed_ports_read_as_after_proxy_init(backend: LegacyBackend, netns: Netns) -> None:
    backend.apply(netns.fd, LISTED)
    text = saved(netns, "ipv4")
    assert LISTED_RULES in text
    assert "redirect-all-incoming" not in text


@pytest.mark.root
@pytest.mark.parametrize("name", REDIRECTS)
def test_the_tables_equal_those_that_the_program_iptables_makes(
    backend: LegacyBackend, make_netns: Callable[[], Netns], name: str
) -> None:
    ours, theirs = make_netns(), make_netns()
    backend.apply(ours.fd, REDIRECTS[name])
    run_proxy_init(theirs, REDIRECTS[name])
    for family in ("ipv4", "ipv6"):
        assert saved(ours, family) == saved(theirs, family)


@pytest.mark.root
@pytest.mark.parametrize("name", REDIRECTS)
def test_rules_that_proxy_init_made_are_taken_as_they_are(
    backend: LegacyBackend, netns: Netns, name: str
) -> None:
    run_proxy_init(netns, REDIRECTS[name])
    assert backend.difference(netns.fd, REDIRECTS[name]) is None
    assert backend.apply(netns.fd, REDIRECTS[name]) is False


@settings(max_examples=50, deadline=None)
@given(any_redirect)
def test_entries_are_canonical_and_as_long_as_they_say(redirect: Redirect) -> None:
    for family in families(redirect):
        for rule in rules_of(redirect, family):
            made = entry(rule, family)
            assert len(made) % 8 == 0
            assert canonical(made, family, "RETURN") == made


@settings(max_examples=50, deadline=None)
@given(any_redirect, any_redirect)
def test_tables_are_equal_where_the_rules_are(one: Redirect, other: Redirect) -> None:
    for family in ("ipv4", "ipv6"):
        # In a family's own table it makes no difference whether a rule is for that family only.
        rules = [[replace(rule, family=None) for rule in rules_of(r, family)] for r in (one, other)]
        same = rules[0] == rules[1]
        assert (wanted(one, family) == wanted(other, family)) == same


def test_counters_and_what_the_kernel_left_behind_a_name_do_not_count() -> None:
    redirect = REDIRECTS["linkerd-default"]
    made = entry(rules_of(redirect, "ipv4")[0], "ipv4")
    raw = bytearray(made)
    raw[84:88] = b"\1\2\3\4"  # nfcache
    raw[92:112] = b"\7" * 20  # comefrom, counters
    name = raw.index(b"multiport\0")
    raw[name + 10 : name + 20] = b"leftovers!"
    target = raw.index(b"RETURN\0")
    raw[target : target + 20] = b"\0eftovers of a name.."
    raw[-8:-4] = b"\xfb\xff\xff\xff"  # the verdict's number
    assert canonical(bytes(raw), "ipv4", "RETURN") == made


def test_loopback_in_ipv6_is_matched_by_its_whole_name() -> None:
    (made,) = [
        entry(r, "ipv6") for r in rules_of(REDIRECTS["everything"], "ipv6") if r.out_interface
    ]
    assert made[64 + 16 : 64 + 32].rstrip(b"\0") == b"lo"
    assert made[64 + 48 : 64 + 64].rstrip(b"\0") == b"\xff\xff\xff"


def test_a_family_that_is_not_redirected_wants_nothing() -> None:
    assert wanted(REDIRECTS["minimal"], "ipv6") == ABSENT
