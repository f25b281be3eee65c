"""Redirects that the dataplane's tests share, by name, and a hypothesis strategy for any."""

from __future__ import annotations

from hypothesis import strategies as st

from vocabulary.annotations.redirect import PortRange, Redirect


def ports(*items: int | tuple[int, int]) -> tuple[PortRange, ...]:
    """``ports(80, (90, 95))``."""
    return tuple(PortRange(*((item, item) if isinstance(item, int) else item)) for item in items)


REDIRECTS = {
    "minimal": Redirect(inbound_port=4143, outbound_port=4140),
    "linkerd-default": Redirect(
        inbound_port=4143,
        outbound_port=4140,
        proxy_uid=2102,
        skip_inbound_ports=ports(4190, 4191, 4567, 4568),
        skip_outbound_ports=ports(4567, 4568),
    ),
    "everything": Redirect(
        inbound_port=4143,
        outbound_port=4140,
        proxy_uid=2102,
        proxy_gid=2103,
        skip_inbound_ports=ports(4190, (100, 200), 0, (65000, 65535)),
        skip_outbound_ports=ports(443, (5432, 5433)),
        skip_subnets=("10.0.0.0/8", "fd00::/8", "192.0.2.7/32", "2001:db8::1/128", "10.1.2.0/25"),
        skip_outbound_subnets=("172.16.0.0/12", "fd12::/17"),
        ipv6=True,
    ),
    "only-some-inbound": Redirect(
        inbound_port=4143,
        outbound_port=4140,
        proxy_uid=2102,
        only_inbound_ports=ports(80, (8000, 8099)),
        ipv6=True,
    ),
    "probed": Redirect(
        inbound_port=4143,
        outbound_port=4140,
        only_inbound_ports=ports((80, 90)),
        probe_ports=(85, 8080),
        ipv6=True,
    ),
    "probed-ipv4": Redirect(
        inbound_port=4143, outbound_port=4140, proxy_uid=2102, probe_ports=(9999, 80)
    ),
    "forty-ports": Redirect(
        inbound_port=4143,
        outbound_port=4140,
        skip_inbound_ports=ports(*range(1000, 1040)),
        skip_outbound_ports=ports(*((p, p + 5) for p in range(2000, 2400, 10))),
        ipv6=True,
    ),
    "any-subnet": Redirect(
        inbound_port=4143, outbound_port=4140, skip_subnets=("0.0.0.0/0", "::/0"), ipv6=True
    ),
}


_port_ranges = st.lists(
    st.tuples(st.integers(0, 65535), st.integers(0, 65535)).map(
        lambda pair: PortRange(min(pair), max(pair))
    ),
    max_size=40,
).map(tuple)
_subnets = st.lists(
    st.one_of(
        st.tuples(st.ip_addresses(v=4), st.integers(0, 32)),
        st.tuples(st.ip_addresses(v=6), st.integers(0, 128)),
    ).map(lambda pair: f"{pair[0]}/{pair[1]}"),
    max_size=6,
).map(tuple)

any_redirect = st.builds(
    Redirect,
    inbound_port=st.integers(1, 65535),
    outbound_port=st.integers(1, 65535),
    proxy_uid=st.integers(0, 4294967294),
    proxy_gid=st.none() | st.integers(0, 4294967294),
    only_inbound_ports=_port_ranges,
    skip_inbound_ports=_port_ranges,
    skip_outbound_ports=_port_ranges,
    probe_ports=st.lists(st.integers(1, 65535), max_size=5).map(tuple),
    skip_subnets=_subnets,
    skip_outbound_subnets=_subnets,
    ipv6=st.booleans(),
)
