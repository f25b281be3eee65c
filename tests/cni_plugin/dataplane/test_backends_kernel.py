"""Both backends against the real kernel: set, leave alone, change, compare, remove, redirect."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from cni_plugin.dataplane import nft, nft_encode
from cni_plugin.dataplane.backends import Backend, choose, mode_of
from cni_plugin.dataplane.errors import (
    InvalidRedirectError,
    LegacyError,
    NetnsError,
    NftError,
    UnavailableError,
    WorkerDiedError,
)
from cni_plugin.dataplane.legacy import LegacyBackend
from cni_plugin.dataplane.netns import OWN_NETNS
from cni_plugin.dataplane.nft import NftBackend
from meshgraft.lab.netns import Netns
from tests.cni_plugin.redirects import REDIRECTS, ports
from tests.cni_plugin.shim_support import wait_until
from vocabulary.annotations.redirect import PortRange, Redirect

pytestmark = pytest.mark.root
SO_ORIGINAL_DST = 80


@pytest.fixture(scope="module")
def legacy_backend() -> Iterator[LegacyBackend]:
    """One worker for all tests of this module, as in an agent."""
    with closing(LegacyBackend()) as backend:
        reason = backend.unavailable()
        if reason is not None:
            pytest.skip(f"legacy iptables: {reason}")
        yield backend


@pytest.fixture(params=["nft", "legacy"])
def backend(request: pytest.FixtureRequest) -> Backend:
    if request.param == "legacy":
        found: LegacyBackend = request.getfixturevalue("legacy_backend")
        return found
    reason = nft.unavailable()
    if reason is not None:
        pytest.skip(f"nftables: {reason}")
    return NftBackend()


def _home() -> Path:
    return Path(OWN_NETNS).readlink()


def nft_rules(netns: Netns) -> str:
    """All nftables rules with their handles: a rule that was replaced has another one."""
    return netns.run("nft", "-a", "list", "ruleset")


def saved(netns: Netns, family: str = "ipv4") -> str:
    """The nat table as iptables-save prints it, without the lines that hold the time."""
    program = "iptables-legacy-save" if family == "ipv4" else "ip6tables-legacy-save"
    lines = netns.run(program, "-t", "nat").splitlines()
    return "\n".join(line for line in lines if not line.startswith("#"))


def everything(netns: Netns) -> str:
    return nft_rules(netns) + saved(netns) + saved(netns, "ipv6")


@pytest.mark.parametrize("name", REDIRECTS)
def test_applying_sets_the_rules_and_applying_again_changes_nothing(
    backend: Backend, netns: Netns, name: str
) -> None:
    redirect = REDIRECTS[name]
    assert backend.apply(netns.fd, redirect) is True
    assert backend.difference(netns.fd, redirect) is None
    before = everything(netns)
    assert backend.apply(netns.fd, redirect) is False
    assert everything(netns) == before


@pytest.mark.parametrize("name", REDIRECTS)
def test_removing_leaves_nothing_behind(backend: Backend, netns: Netns, name: str) -> None:
    backend.apply(netns.fd, REDIRECTS[name])
    assert backend.remove(netns.fd) is True
    assert nft_rules(netns) == ""
    assert "PROXY_INIT" not in everything(netns)
    assert backend.remove(netns.fd) is False


def test_a_changed_redirect_replaces_the_rules_whole(backend: Backend, netns: Netns) -> None:
    backend.apply(netns.fd, REDIRECTS["everything"])
    assert backend.difference(netns.fd, REDIRECTS["only-some-inbound"]) is not None
    assert backend.apply(netns.fd, REDIRECTS["only-some-inbound"]) is True
    assert backend.difference(netns.fd, REDIRECTS["only-some-inbound"]) is None
    assert "ignore-port-443" not in everything(netns)


def test_ipv6_rules_go_when_ipv6_is_no_longer_redirected(backend: Backend, netns: Netns) -> None:
    backend.apply(netns.fd, REDIRECTS["only-some-inbound"])
    backend.apply(netns.fd, REDIRECTS["linkerd-default"])
    assert "PROXY_INIT" not in saved(netns, "ipv6")
    assert "ip6" not in nft_rules(netns)
    assert backend.difference(netns.fd, REDIRECTS["linkerd-default"]) is None


def test_without_ipv6_its_legacy_table_does_not_even_come_into_being(
    legacy_backend: LegacyBackend, netns: Netns
) -> None:
    legacy_backend.apply(netns.fd, REDIRECTS["linkerd-default"])
    assert netns.run("cat", "/proc/net/ip_tables_names").split() == ["nat"]
    assert netns.run("cat", "/proc/net/ip6_tables_names").split() == []


def test_asking_for_the_difference_in_a_fresh_namespace_changes_nothing(
    backend: Backend, netns: Netns
) -> None:
    text = backend.difference(netns.fd, REDIRECTS["linkerd-default"])
    assert text is not None
    assert "is missing" in text
    assert backend.remove(netns.fd) is False
    assert nft_rules(netns) == ""
    assert netns.run("cat", "/proc/net/ip_tables_names").split() == []


def _delete_nft_rule(netns: Netns) -> None:
    handle = re.search(r"ignore-loopback\" # handle (\d+)", nft_rules(netns))
    assert handle is not None
    netns.run(
        "nft", "delete", "rule", "inet", "meshgraft", "PROXY_INIT_OUTPUT", "handle", handle[1]
    )


def _insert_nft_rule(netns: Netns) -> None:
    netns.run("nft", "insert rule inet meshgraft PROXY_INIT_REDIRECT tcp dport 80 accept")


def _sleeping_nft_table(netns: Netns) -> None:
    netns.run("nft", "add table inet meshgraft { flags dormant; }")


def _nft_policy(netns: Netns) -> None:
    netns.run("nft", "chain inet meshgraft PROXY_INIT_OUTPUT { policy drop; }")


def _other_nft_port(netns: Netns) -> None:
    listing = netns.run("nft", "list", "ruleset").replace("redirect to :4143", "redirect to :4144")
    netns.run("sh", "-c", f"nft delete table inet meshgraft && echo '{listing}' | nft -f -")


@pytest.mark.parametrize(
    ("tamper", "says"),
    [
        (_delete_nft_rule, "as rule 2, expected 'proxy-init/ignore-loopback'"),
        (_insert_nft_rule, "as rule 1, expected 'proxy-init/ignore-port-4190'"),
        (_sleeping_nft_table, "dormant"),
        (_nft_policy, "policy"),
        (_other_nft_port, "changed rule 5, 'proxy-init/redirect-all-incoming-to-proxy-port'"),
    ],
)
def test_nft_finds_and_mends_tampering(
    netns: Netns, tamper: Callable[[Netns], None], says: str
) -> None:
    backend, redirect = NftBackend(), REDIRECTS["linkerd-default"]
    backend.apply(netns.fd, redirect)
    tamper(netns)
    text = backend.difference(netns.fd, redirect)
    assert text is not None
    assert says in text
    assert backend.apply(netns.fd, redirect) is True
    assert backend.difference(netns.fd, redirect) is None


def test_of_rules_without_end_few_are_kept(netns: Netns, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pod with NET_ADMIN may fill our table, and the agent's memory is for all pods."""
    backend, redirect = NftBackend(), REDIRECTS["linkerd-default"]
    backend.apply(netns.fd, redirect)
    rule = "add rule inet meshgraft PROXY_INIT_REDIRECT accept\n"
    netns.run("sh", "-c", f"printf '{rule.strip()}\\n%.0s' $(seq 500) | nft -f -")
    monkeypatch.setattr(nft, "_MOST_OBJECTS", 100)
    text = backend.difference(netns.fd, redirect) or ""
    found = re.search(r"has (\d+) more rules than it should", text)
    assert found is not None, text
    assert int(found[1]) < 100
    assert backend.apply(netns.fd, redirect) is True
    assert backend.difference(netns.fd, redirect) is None


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ("-D PROXY_INIT_OUTPUT 2", "ignore-loopback"),
        ("-I PROXY_INIT_REDIRECT -p tcp --dport 80 -j ACCEPT", "another rule 1 than"),
        ("-A PROXY_INIT_REDIRECT -j RETURN", "has 1 more rules"),
        ("-D PROXY_INIT_OUTPUT 4", "lacks rule 4"),
        ("-F PREROUTING", "has 0 jumps"),
        ("-A OUTPUT -j PROXY_INIT_OUTPUT", "has 2 jumps"),
        ("-R PROXY_INIT_OUTPUT 4 -p tcp -j REDIRECT --to-ports 4144", "another rule 4"),
    ],
)
def test_legacy_finds_and_mends_tampering(
    legacy_backend: LegacyBackend, netns: Netns, argv: str, says: str
) -> None:
    redirect = REDIRECTS["linkerd-default"]
    legacy_backend.apply(netns.fd, redirect)
    before = saved(netns)
    netns.run("iptables-legacy", "-t", "nat", *argv.split())
    text = legacy_backend.difference(netns.fd, redirect)
    assert text is not None
    assert says in text
    assert legacy_backend.apply(netns.fd, redirect) is True
    assert saved(netns) == before


def test_rules_of_others_stay_untouched(backend: Backend, netns: Netns) -> None:
    netns.run("iptables-legacy", "-t", "nat", "-A", "PREROUTING", "-p", "udp", "-j", "ACCEPT")
    netns.run("iptables-legacy", "-t", "nat", "-N", "SOMEBODY")
    netns.run("nft", "add table inet somebody { chain c { type filter hook input priority 0; }; }")
    before = everything(netns)
    backend.apply(netns.fd, REDIRECTS["everything"])
    backend.apply(netns.fd, REDIRECTS["minimal"])
    assert "SOMEBODY" in saved(netns)
    assert "somebody" in nft_rules(netns)
    backend.remove(netns.fd)
    assert everything(netns) == before


def test_many_namespaces_at_once_each_get_their_own_rules(
    backend: Backend, make_netns: Callable[[], Netns]
) -> None:
    namespaces = [make_netns() for _ in range(12)]
    host = _home()
    redirects = [
        Redirect(inbound_port=10000 + n, outbound_port=20000 + n, skip_inbound_ports=ports(n))
        for n in range(len(namespaces))
    ]
    with ThreadPoolExecutor(8) as pool:
        jobs = [*zip(namespaces, redirects, strict=True)] * 3
        changed = list(pool.map(lambda job: backend.apply(job[0].fd, job[1]), jobs))
        homes = set(pool.map(lambda _: _home(), range(32)))
    assert sum(changed) == len(namespaces)
    assert homes == {host}
    for number, netns in enumerate(namespaces):
        assert backend.difference(netns.fd, redirects[number]) is None
        found = set(re.findall(r"redirect to :(\d+)|--to-ports (\d+)", everything(netns)))
        assert {one or other for one, other in found} == {str(10000 + number), str(20000 + number)}


def test_applying_in_one_namespace_from_many_threads_ends_well(
    backend: Backend, netns: Netns
) -> None:
    choices = [REDIRECTS["linkerd-default"], REDIRECTS["everything"]] * 6
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda redirect: backend.apply(netns.fd, redirect), choices))
    texts = [backend.difference(netns.fd, redirect) for redirect in choices[:2]]
    assert texts.count(None) == 1


def test_a_bad_subnet_is_refused_and_nothing_is_changed(backend: Backend, netns: Netns) -> None:
    redirect = Redirect(inbound_port=1, outbound_port=2, skip_subnets=("nonsense",))
    with pytest.raises(InvalidRedirectError, match="'nonsense' is not a valid CIDR"):
        backend.apply(netns.fd, redirect)
    assert "PROXY_INIT" not in everything(netns)


def test_a_descriptor_that_is_no_namespace_is_an_error_for_an_operator(backend: Backend) -> None:
    with Path(os.devnull).open() as file, pytest.raises(NetnsError, match="network namespace"):
        backend.apply(file.fileno(), REDIRECTS["minimal"])


def test_a_closed_descriptor_never_means_our_own_namespace(backend: Backend, netns: Netns) -> None:
    fd = os.dup(netns.fd)
    os.close(fd)
    for use in (backend.remove, lambda fd: backend.apply(fd, REDIRECTS["minimal"])):
        with pytest.raises(NetnsError, match="is not open"):
            use(fd)


def test_two_thousand_ports_fit_into_one_transaction(backend: Backend, netns: Netns) -> None:
    redirect = Redirect(
        inbound_port=1, outbound_port=2, skip_inbound_ports=ports(*range(1, 4001, 2))
    )
    assert backend.apply(netns.fd, redirect) is True
    assert backend.difference(netns.fd, redirect) is None
    assert backend.apply(netns.fd, redirect) is False


def test_a_long_list_is_set_from_a_user_namespace_of_the_pod_s_own() -> None:
    """``hostUsers: false``: NET_ADMIN there does not let a socket's buffers grow without bound."""
    code = (
        "import os; from cni_plugin.dataplane.nft import NftBackend; "
        "from tests.cni_plugin.redirects import ports; "
        "from vocabulary.annotations.redirect import Redirect; "
        "fd = os.open('/proc/self/ns/net', os.O_RDONLY); "
        "r = Redirect(inbound_port=1, outbound_port=2, skip_inbound_ports=ports(*range(1, 400))); "
        "print(NftBackend().apply(fd, r), NftBackend().difference(fd, r))"
    )
    unshare = ["unshare", "--user", "--map-root-user", "--net"]
    if subprocess.run([*unshare, "true"], capture_output=True, timeout=10).returncode != 0:
        pytest.skip("user namespaces are not allowed here")
    done = subprocess.run([*unshare, *_python(code)], capture_output=True, text=True, timeout=60)
    assert done.stdout == "True None\n", done.stderr


def test_a_refused_nft_transaction_names_the_object_and_changes_nothing(netns: Netns) -> None:
    batch = nft_encode.plan(REDIRECTS["linkerd-default"]).create
    broken = batch.data.replace(b"redir\0", b"rudir\0")
    with (
        pytest.raises(NftError, match=r"rule 'proxy-init/redirect-all-incoming") as caught,
        nft._opened(netns.fd, "set the rules") as sock,
    ):
        nft._commit(sock, nft_encode.Batch(broken, batch.objects))
    assert "No such file or directory" in str(caught.value)
    assert nft_rules(netns) == ""


def test_the_probe_of_nft_leaves_no_trace(netns: Netns) -> None:
    with netns.entered():
        assert nft.unavailable() is None
    assert nft_rules(netns) == ""


def test_without_the_right_to_change_the_network_nft_says_what_is_missing(netns: Netns) -> None:
    code = (
        "from cni_plugin.dataplane import nft; import sys; text = nft.unavailable(); "
        "print(text); sys.exit('CAP_NET_ADMIN' not in text)"
    )
    done = subprocess.run(
        ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", *_python(code)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def _unread_bytes(sock: socket.socket) -> int:
    """What was sent and is not taken yet: killed before that, the worker would be replaced."""
    (size,) = struct.unpack("=i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))
    return int(size)


def test_a_worker_that_dies_is_reported_and_replaced(netns: Netns) -> None:
    redirect = REDIRECTS["linkerd-default"]
    with closing(LegacyBackend()) as backend:
        assert backend.apply(netns.fd, redirect) is True
        worker = backend._worker
        assert worker is not None
        # Stopped, it takes the request but cannot answer; then it is killed.
        os.kill(worker.process.pid, signal.SIGSTOP)
        with ThreadPoolExecutor(1) as pool:
            pending = pool.submit(backend.apply, netns.fd, redirect)
            wait_until(lambda: _unread_bytes(worker.channel) > 0)
            os.kill(worker.process.pid, signal.SIGKILL)
            with pytest.raises(WorkerDiedError, match=r"ended \(status -9\).*try again"):
                pending.result(timeout=30)
        assert backend.apply(netns.fd, redirect) is False


def test_a_worker_that_died_between_requests_is_not_even_noticed(netns: Netns) -> None:
    with closing(LegacyBackend()) as backend:
        backend.apply(netns.fd, REDIRECTS["minimal"])
        worker = backend._worker
        assert worker is not None
        worker.process.kill()
        worker.process.wait(10)
        assert backend.difference(netns.fd, REDIRECTS["minimal"]) is None


def test_a_worker_that_hangs_is_ended(netns: Netns) -> None:
    with closing(LegacyBackend()) as backend:
        backend.apply(netns.fd, REDIRECTS["minimal"])
        worker = backend._worker
        assert worker is not None
        os.kill(worker.process.pid, signal.SIGSTOP)
        worker.channel.settimeout(0.2)
        with pytest.raises(WorkerDiedError, match="did not answer"):
            backend.apply(netns.fd, REDIRECTS["minimal"])
        assert worker.process.returncode == -9
        assert backend.apply(netns.fd, REDIRECTS["minimal"]) is False


def test_a_failure_of_ipv6_puts_the_ipv4_table_back(
    netns: Netns, monkeypatch: pytest.MonkeyPatch
) -> None:
    import iptc

    from cni_plugin.dataplane import legacy_tables

    legacy_tables.apply(netns.fd, REDIRECTS["linkerd-default"])
    before = saved(netns)
    real = iptc.Table6.commit
    calls: list[int] = []

    def failing(table: object) -> None:
        if isinstance(table, iptc.Table6):
            calls.append(1)
            raise iptc.IPTCError("can't commit: no memory")
        real(table)

    monkeypatch.setattr(iptc.Table6, "commit", failing)
    with pytest.raises(LegacyError, match=r"ipv6 table nat.*no memory"):
        legacy_tables.apply(netns.fd, REDIRECTS["everything"])
    assert calls
    assert saved(netns) == before
    assert "PROXY_INIT" not in saved(netns, "ipv6")


def test_choosing_takes_what_was_asked_for() -> None:
    assert choose("nft").name == "nft"
    assert choose("auto").name == "nft"
    assert isinstance(choose("auto"), Backend)
    assert choose("legacy").name == "legacy"


def test_auto_falls_back_to_legacy_where_the_kernel_lacks_nftables(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nft, "unavailable", lambda: "no nf_tables")
    assert choose("auto").name == "legacy"
    with pytest.raises(UnavailableError, match="nftables cannot be used here: no nf_tables"):
        choose("nft")


def test_where_neither_can_be_used_both_reasons_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nft, "unavailable", lambda: "no nf_tables")
    monkeypatch.setattr(LegacyBackend, "unavailable", lambda _: "no ip_tables")
    with pytest.raises(UnavailableError, match="no ip_tables; nor can nftables: no nf_tables"):
        choose("auto")


@pytest.mark.parametrize(
    ("text", "mode"),
    [("nft", "nft"), ("legacy", "legacy"), ("plain", "auto"), ("", "auto"), ("auto", "auto")],
)
def test_modes_of_linkerd_are_understood(text: str, mode: str) -> None:
    assert mode_of(text) == mode


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="'ebpf' is not known"):
        mode_of("ebpf")


def test_nft_never_loads_libiptc_and_legacy_never_loads_it_into_this_process() -> None:
    code = (
        "import sys; from cni_plugin.dataplane.backends import choose; "
        "choose('nft'); choose('legacy'); sys.exit('iptc' in sys.modules)"
    )
    assert subprocess.run(_python(code), timeout=60).returncode == 0


def _listen(netns: Netns, family: socket.AddressFamily, port: int) -> socket.socket:
    sock = netns.tcp_socket(family)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", port))
    sock.listen()
    sock.settimeout(10)
    return sock


def _original_port(connection: socket.socket, family: socket.AddressFamily) -> int:
    if family == socket.AF_INET:
        raw = connection.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16)
    else:
        raw = connection.getsockopt(41, SO_ORIGINAL_DST, 28)
    return int(struct.unpack_from("!H", raw, 2)[0])


@pytest.fixture
def pair(make_netns: Callable[[], Netns]) -> tuple[Netns, Netns]:
    """A pod and a peer, connected by a veth pair; the pod's other addresses lead to the peer."""
    pod, peer = make_netns(), make_netns()
    link = ["ip", "link", "add", "eth0", "netns", pod.name, "type", "veth", "peer", "name", "eth0"]
    subprocess.run([*link, "netns", peer.name], check=True)
    for netns, number in ((pod, 1), (peer, 2)):
        ip = ["ip", "-n", netns.name]
        subprocess.run([*ip, "addr", "add", f"10.77.0.{number}/24", "dev", "eth0"], check=True)
        v6 = [f"fd77::{number}/64", "dev", "eth0", "nodad"]
        subprocess.run([*ip, "addr", "add", *v6], check=True)
        subprocess.run([*ip, "link", "set", "eth0", "up"], check=True)
    return pod, peer


@pytest.mark.parametrize(
    ("family", "pod_address", "peer_address"),
    [(socket.AF_INET, "10.77.0.1", "10.77.0.2"), (socket.AF_INET6, "fd77::1", "fd77::2")],
    ids=["ipv4", "ipv6"],
)
@pytest.mark.parametrize("further", [(), ports(*range(10_001, 10_401, 2))], ids=["few", "many"])
def test_connections_come_out_at_the_proxy_s_ports(
    backend: Backend,
    further: tuple[PortRange, ...],
    pair: tuple[Netns, Netns],
    family: socket.AddressFamily,
    pod_address: str,
    peer_address: str,
) -> None:
    pod, peer = pair
    redirect = Redirect(
        inbound_port=4143,
        outbound_port=4140,
        skip_inbound_ports=(*further, *ports((81, 82))),
        skip_outbound_ports=(*further, *ports(9090)),
        skip_subnets=("192.0.2.0/24", "2001:db8::/32"),
        skip_outbound_subnets=("10.78.0.0/16", "fd78::/64"),
        ipv6=True,
    )
    backend.apply(pod.fd, redirect)
    with ExitStack() as stack:
        inbound = stack.enter_context(_listen(pod, family, 4143))
        outbound = stack.enter_context(_listen(pod, family, 4140))
        skipped = stack.enter_context(_listen(pod, family, 82))
        passed = stack.enter_context(_listen(peer, family, 9090))
        for source, address, port, listener in (
            (peer, pod_address, 80, inbound),
            (pod, peer_address, 8080, outbound),
            (peer, pod_address, 82, skipped),
            (pod, peer_address, 9090, passed),
        ):
            stack.enter_context(source.connect(address, port))
            connection = stack.enter_context(listener.accept()[0])
            if listener not in (skipped, passed):
                assert _original_port(connection, family) == port


@pytest.mark.parametrize(
    ("family", "pod_address"),
    [(socket.AF_INET, "10.77.0.1"), (socket.AF_INET6, "fd77::1")],
    ids=["ipv4", "ipv6"],
)
@pytest.mark.parametrize("further", [(), ports(*range(10_001, 10_401, 2))], ids=["few", "many"])
def test_a_probed_port_refuses_while_nothing_listens_there(
    backend: Backend,
    further: tuple[PortRange, ...],
    pair: tuple[Netns, Netns],
    family: socket.AddressFamily,
    pod_address: str,
) -> None:
    pod, peer = pair
    redirect = Redirect(
        inbound_port=4143,
        outbound_port=4140,
        skip_inbound_ports=further,
        probe_ports=(7000, 7001),
        ipv6=True,
    )
    assert backend.apply(pod.fd, redirect)
    assert backend.difference(pod.fd, redirect) is None
    assert backend.apply(pod.fd, redirect) is False
    with ExitStack() as stack:
        proxy = stack.enter_context(_listen(pod, family, 4143))
        # Listens on all addresses of both families, as Go's servers do.
        app = stack.enter_context(pod.tcp_socket(socket.AF_INET6))
        app.bind(("::", 7000))
        app.listen()
        for port in (7000, 80):
            stack.enter_context(peer.connect(pod_address, port))
            connection = stack.enter_context(proxy.accept()[0])
            assert _original_port(connection, family) == port
        with pytest.raises(ConnectionRefusedError):
            peer.connect(pod_address, 7001)
        app.close()
        with pytest.raises(ConnectionRefusedError):
            peer.connect(pod_address, 7000)


def test_a_kernel_without_the_socket_match_gets_the_other_rules(
    netns: Netns, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = nft_encode._expression

    def without_socket(name: str, *attrs: tuple[str, object]) -> nft_encode.Attributes:
        return real(name if name != "socket" else "lookup", *(() if name == "socket" else attrs))

    monkeypatch.setattr(nft_encode, "_expression", without_socket)
    redirect = Redirect(inbound_port=4143, outbound_port=4140, probe_ports=(7777,))
    backend = choose("nft")
    assert backend.apply(netns.fd, redirect)
    assert backend.difference(netns.fd, redirect) is None
    assert "TCP probe" in caplog.text
    with pytest.raises(NftError):
        NftBackend().apply(netns.fd, redirect)


@pytest.mark.parametrize("error", [OSError(errno.ENOBUFS, "no buffer space"), TimeoutError()])
def test_auto_does_not_turn_to_legacy_because_the_kernel_is_busy(
    error: OSError, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pods that run would then have the other backend's rules."""

    def busy(*_: object) -> None:
        raise error

    monkeypatch.setattr(nft, "_commit", busy)
    with pytest.raises(NftError, match="cannot try nftables"):
        choose("auto")


def test_legacy_without_the_right_that_libiptc_needs_is_said_at_the_start(
    legacy_backend: LegacyBackend,
) -> None:
    """Else the agent would be ready, and each pod would fail."""
    assert legacy_backend.name == "legacy"
    script = "from cni_plugin.dataplane.backends import choose; choose('legacy')"
    done = subprocess.run(
        ["setpriv", "--bounding-set=-net_raw", sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "UnavailableError: legacy iptables cannot be used here: libiptc needs CAP_NET_RAW" in (
        done.stderr.strip().splitlines()[-1].replace("cni_plugin.dataplane.errors.", "")
    )
