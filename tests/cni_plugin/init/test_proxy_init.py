"""The init container's command: Linkerd's flags and errors, the same rules as the agent's."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cni_plugin.dataplane.nft import NftBackend
from cni_plugin.init.proxy_init import (
    BadFlagError,
    Flags,
    Log,
    mode_from_flags,
    parse_port_range,
    redirect_from_flags,
    run,
)
from meshgraft.lab.netns import Netns
from tests.cni_plugin.redirects import REDIRECTS, any_redirect, ports
from vocabulary.annotations.redirect import PortRange, Redirect

PORTS = Flags(incoming_proxy_port=4143, outgoing_proxy_port=4140)
COMMAND = [sys.executable, "-m", "meshgraft", "proxy-init"]


def command(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *argv], capture_output=True, text=True, timeout=60)


def test_the_flags_of_linkerd_s_injector_give_its_rules() -> None:
    flags = replace(
        PORTS,
        proxy_uid=2102,
        inbound_ports_to_ignore=("4190", "4191", "4567", "4568"),
        outbound_ports_to_ignore=("4567", "4568"),
        ipv6=False,
    )
    assert redirect_from_flags(flags) == (REDIRECTS["linkerd-default"], ())


def test_all_other_flags_reach_the_redirect() -> None:
    flags = replace(
        PORTS,
        proxy_gid=2103,
        ports_to_redirect=("80", " 443 "),
        subnets_to_ignore=("10.1.2.3/8", "fd00::/8"),
    )
    assert redirect_from_flags(flags)[0] == Redirect(
        inbound_port=4143,
        outbound_port=4140,
        proxy_gid=2103,
        only_inbound_ports=ports(80, 443),
        skip_subnets=("10.0.0.0/8", "fd00::/8"),
        ipv6=True,
    )


@pytest.mark.parametrize("number", [-1, 0])
def test_ids_of_zero_and_below_mean_no_rule(number: int) -> None:
    redirect, _ = redirect_from_flags(replace(PORTS, proxy_uid=number, proxy_gid=number))
    assert (redirect.proxy_uid, redirect.proxy_gid) == (0, None)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (Flags(), "--incoming-proxy-port must be a valid TCP port number"),
        (Flags(incoming_proxy_port=1), "--outgoing-proxy-port must be a valid TCP port number"),
        (Flags(incoming_proxy_port=65536), "--incoming-proxy-port must be"),
        (Flags(incoming_proxy_port=0), "--incoming-proxy-port must be"),
        (replace(PORTS, subnets_to_ignore=("10.0.0.0",)), "10.0.0.0 is not a valid CIDR address"),
        (replace(PORTS, subnets_to_ignore=("10.0.0.0/255.0.0.0",)), "is not a valid CIDR address"),
        (replace(PORTS, subnets_to_ignore=("10.0.0.0/33",)), "10.0.0.0/33 is not a valid CIDR"),
        (replace(PORTS, subnets_to_ignore=("fe80::1%eth0/64",)), "is not a valid CIDR address"),
        (replace(PORTS, proxy_uid=4294967295), "--proxy-uid must not be above"),
        (replace(PORTS, ports_to_redirect=("http",)), "'http' is not a valid TCP port"),
        (replace(PORTS, ports_to_redirect=("0" * 6 + "9" * 5000,)), "is not a valid TCP port"),
        (Flags(redirect="{}"), "--redirect: meshgraft.io/redirect"),
        (Flags(redirect='{"version": 99, "inboundPort": 1, "outboundPort": 2}'), "version 99"),
    ],
)
def test_values_that_cannot_be_used_are_refused_in_linkerd_s_words(flags: Flags, says: str) -> None:
    with pytest.raises(BadFlagError) as caught:
        redirect_from_flags(flags)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x", '"x" is not a valid TCP port'),
        ("", '"" is not a valid TCP port'),
        ("65536", '"65536" is not a valid TCP port'),
        ("0000009999999", '"0000009999999" is not a valid TCP port'),
        ("٣", '"٣" is not a valid TCP port'),
        ("1-2-3", "ranges expected as <lower>-<upper>"),
        ("a-2", '"a" is not a valid lower-bound'),
        ("-2", '"" is not a valid lower-bound'),
        ("2-b", '"b" is not a valid upper-bound'),
        ("7-5", '"7-5": upper-bound must be greater than or equal to lower-bound'),
    ],
)
def test_bad_port_items_are_left_out_and_complained_of_while_good_ones_hold(
    text: str, says: str
) -> None:
    flags = replace(PORTS, inbound_ports_to_ignore=("80", text, "90-95"))
    redirect, complaints = redirect_from_flags(flags)
    assert redirect.skip_inbound_ports == ports(80, (90, 95))
    assert len(complaints) == 1
    assert says in complaints[0]


@given(st.integers(0, 65535), st.integers(0, 65535))
def test_every_valid_range_is_read_back(one: int, other: int) -> None:
    expected = PortRange(min(one, other), max(one, other))
    assert parse_port_range(f"{expected.lower}-{expected.upper}") == expected
    assert parse_port_range(str(one)) == PortRange(one, one)
    assert parse_port_range(f"00{one}") == PortRange(one, one)


@settings(max_examples=60)
@given(any_redirect)
def test_a_finished_redirect_is_taken_whole(redirect: Redirect) -> None:
    assert redirect_from_flags(Flags(redirect=redirect.to_annotation())) == (redirect, ())


@pytest.mark.parametrize(
    ("iptables_mode", "firewall", "mode"),
    [
        ("", "", "auto"),
        ("nft", "", "nft"),
        ("legacy", "iptables-nft", "legacy"),
        ("plain", "", "auto"),
        ("", "iptables-nft", "nft"),
        ("", "iptables-legacy", "legacy"),
        ("", "iptables", "auto"),
    ],
)
def test_the_mode_wins_over_the_program_s_name(
    iptables_mode: str, firewall: str, mode: str
) -> None:
    assert mode_from_flags(iptables_mode, firewall) == mode


@pytest.mark.parametrize(
    ("iptables_mode", "firewall", "says"),
    [
        ("auto", "", '--iptables-mode valid values are only "legacy", "nft" and "plain"'),
        ("", "/sbin/iptables", "--firewall-bin-path valid values are only"),
    ],
)
def test_an_unknown_mode_is_refused(iptables_mode: str, firewall: str, says: str) -> None:
    with pytest.raises(BadFlagError, match=says.replace("/", ".")):
        mode_from_flags(iptables_mode, firewall)


def test_a_log_line_is_json_where_asked(capsys: pytest.CaptureFixture[str]) -> None:
    Log("json")("error", 'a "word"')
    Log("plain", "error")("info", "not wanted")
    Log("plain", "panic")("error", "not wanted")
    line = json.loads(capsys.readouterr().err)
    assert (line["level"], line["msg"]) == ("error", 'a "word"')


def test_simulate_prints_the_rules_of_both_families_and_sets_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(replace(PORTS, simulate=True, netns="/nowhere"))
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "iptables -t nat -N PROXY_INIT_REDIRECT"
    assert sum(line.startswith("ip6tables") for line in printed) == len(printed) / 2


def test_list_flags_may_be_repeated_and_hold_commas_and_booleans_take_a_value() -> None:
    done = command(
        *("-p", "4143", "-o", "4140", "-u", "2102", "-g", "-1", "-w", "-r", "80,81", "-r=82"),
        *("--inbound-ports-to-ignore", "4190,4191", "--inbound-ports-to-ignore=1-2"),
        *("--subnets-to-ignore", "10.0.0.0/8", "--ipv6=false", "--simulate"),
        *("--firewall-bin-path", "iptables-nft", "--firewall-save-bin-path", "iptables-nft-save"),
        *("--log-format", "json", "--log-level", "debug", "--outbound-ports-to-ignore", ""),
    )
    assert done.returncode == 0, done.stderr
    assert "--dports 4190,4191,1:2 -j RETURN" in done.stdout
    assert done.stdout.count("--destination-port") == 3
    assert "ip6tables" not in done.stdout
    assert "gid-owner" not in done.stdout


def test_an_error_is_one_line_and_exit_code_1() -> None:
    done = command("--incoming-proxy-port", "4143")
    assert done.returncode == 1
    assert done.stderr == "Error: --outgoing-proxy-port must be a valid TCP port number\n"


@pytest.mark.root
def test_the_command_sets_the_rules_of_the_namespace_that_it_is_given(netns: Netns) -> None:
    argv = ["-p", "4143", "-o", "4140", "-u", "2102", "--netns", str(netns.path), "--ipv6=false"]
    done = command(
        *argv,
        "--inbound-ports-to-ignore=4190,4191,4567,4568,bad",
        "--outbound-ports-to-ignore=4567,4568",
    )
    assert done.returncode == 0, done.stderr
    assert "port 'bad' is left out" in done.stderr
    assert "nft: rules set" in done.stderr
    assert NftBackend().difference(netns.fd, REDIRECTS["linkerd-default"]) is None


@pytest.mark.root
@pytest.mark.parametrize("mode", ["nft", "legacy"])
def test_an_init_container_needs_no_right_to_change_namespaces(netns: Netns, mode: str) -> None:
    """As Kubernetes runs it: in the pod's namespace, as root, with NET_ADMIN and NET_RAW alone."""
    caps = "-all,+net_admin,+net_raw"
    limited = ["setpriv", f"--bounding-set={caps}", f"--inh-caps={caps}"]
    redirect = REDIRECTS["everything"].to_annotation()
    argv = [*limited, *COMMAND, "--redirect", redirect, "--iptables-mode", mode]
    done = subprocess.run(netns.command(*argv), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert f"{mode}: rules set" in done.stderr


@pytest.mark.root
def test_the_close_wait_timeout_is_set_in_the_pod_s_namespace(netns: Netns) -> None:
    sysctl = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait"
    before = netns.run("cat", sysctl)
    run(replace(PORTS, netns=str(netns.path), timeout_close_wait_secs=1234))
    assert netns.run("cat", sysctl) == "1234\n" != before
    with open(sysctl) as host:  # noqa: PTH123
        assert host.read() == before


def test_a_negative_close_wait_timeout_is_refused() -> None:
    with pytest.raises(BadFlagError, match="must not be negative"):
        run(replace(PORTS, timeout_close_wait_secs=-5, simulate=True))


@pytest.mark.root
def test_a_close_wait_timeout_that_is_not_allowed_is_fatal(netns: Netns) -> None:
    argv = [*COMMAND, "-p", "1", "-o", "2", "--timeout-close-wait-secs", "5"]
    script = 'mount -o bind,ro /proc/sys /proc/sys && exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", *netns.command(*argv)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "Error: cannot set /proc/sys/net/netfilter" in done.stderr
    assert netns.run("nft", "list", "ruleset") == ""
