"""The validator passes only where its own connections come back to it; else exit code 95."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from cni_plugin.dataplane.expected import Expected, RememberingBackend
from cni_plugin.dataplane.inbound_word import Mailbox, tell
from cni_plugin.dataplane.netns import identity
from cni_plugin.dataplane.nft import NftBackend
from cni_plugin.init.network_validator import (
    Address,
    Inbound,
    NotValidatedError,
    Wanted,
    make_token,
    parse_address,
    parse_timeout,
    validate,
)
from cni_plugin.repair import witness
from cni_plugin.repair.witness import Witness
from meshgraft.lab.netns import Netns
from tests.cni_plugin.nobody import validator_as_nobody
from vocabulary.annotations.redirect import PortRange, Redirect

COMMAND = [sys.executable, "-m", "meshgraft", "network-validator"]
REDIRECT = Redirect(inbound_port=4143, outbound_port=4140, ipv6=True)


def own(address: Address) -> Wanted:
    """A connection from an address of ours to itself."""
    return Wanted(listen=address, connect=address)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def stranger(answer: bytes) -> Iterator[Address]:
    """A server that is not us: it answers and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield Address("127.0.0.1", server.getsockname()[1])
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(10)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.2:1404", Address("192.0.2.2", 1404)),
        ("[fd00::1]:20001", Address("fd00::1", 20001)),
        ("[::]:4140", Address("::", 4140)),
    ],
)
def test_addresses_are_read_and_written_as_linkerd_has_them(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text", ["", "4140", ":4140", "localhost:1", "fd00::1:20001", "[10.0.0.1]:1", "1.1.1.1:70000"]
)
def test_other_addresses_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not an address: expected IP:PORT"):
        parse_address(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10s", 10), ("500ms", 0.5), ("1m", 60), ("2h", 7200), ("1d", 86400), ("0", 0)],
)
def test_timeouts_have_a_unit(text: str, seconds: float) -> None:
    assert parse_timeout(text) == seconds


@pytest.mark.parametrize("text", ["10", "", "1.5s", "-1s", "1w"])
def test_other_timeouts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a time-out"):
        parse_timeout(text)


def test_a_token_is_63_letters_and_digits_and_a_newline() -> None:
    token = make_token()
    assert len(token) == 64
    assert token[:63].isalnum()
    assert token.endswith(b"\n")
    assert token != make_token()


def test_a_connection_that_comes_back_validates() -> None:
    assert validate(own(Address("127.0.0.1", free_port())), 5) == ()


@pytest.mark.parametrize(
    ("answer", "seen"), [(b"x" * 64, "with other words than ours"), (b"hello", "hung up")]
)
def test_an_answer_of_somebody_else_does_not_validate(answer: bytes, seen: str) -> None:
    with stranger(answer) as address, pytest.raises(NotValidatedError, match=seen):
        validate(Wanted(Address("127.0.0.1", free_port()), address), 0.3)


def test_a_refused_connection_is_told_with_what_to_look_at() -> None:
    wanted = Wanted(Address("127.0.0.1", free_port()), Address("127.0.0.1", free_port()))
    with pytest.raises(NotValidatedError) as caught:
        validate(wanted, 0.2)
    assert "connection refused" in str(caught.value)
    assert "Look at the linkerd-cni pod on this node" in str(caught.value)


def test_a_port_in_use_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = Address("127.0.0.1", server.getsockname()[1])
        with pytest.raises(NotValidatedError, match=r"cannot listen on .*already in use"):
            validate(own(taken), 1)


def test_a_kernel_without_ipv6_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    class WithoutIPv6(socket.socket):
        def __init__(self, family: int = -1, *args: int, **kwargs: int) -> None:
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
            super().__init__(family, *args, **kwargs)

    monkeypatch.setattr(socket, "socket", WithoutIPv6)
    with pytest.raises(NotValidatedError) as caught:
        validate(own(parse_address("[::1]:4140")), 0.2)
    assert "cannot listen on [::1]:4140: address family not supported" in str(caught.value)
    assert "the node has no IPv6" in str(caught.value)


def test_an_interface_that_is_not_there_does_not_validate() -> None:
    wanted = Wanted(Address("::1", 0), parse_address("[fe80::1%nowhere0]:1"))
    with pytest.raises(NotValidatedError):
        validate(wanted, 0.2)


def test_the_command_prints_validated() -> None:
    address = f"127.0.0.1:{free_port()}"
    argv = ["--listen-addr", address, "--connect-addr", address, "--timeout", "5s"]
    done = subprocess.run([*COMMAND, *argv], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "Validated\n"), done.stderr


@pytest.mark.parametrize("argv", [["--timeout", "10"], ["--connect-addr", "nowhere:1"]])
def test_a_bad_flag_is_exit_code_95_too(argv: list[str]) -> None:
    done = subprocess.run([*COMMAND, *argv], capture_output=True, text=True, timeout=60)
    assert done.returncode == 95
    assert done.stderr.startswith("Error: ")


@pytest.mark.root
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_95(netns: Netns, number: signal.Signals) -> None:
    argv = ["--timeout", "60s"]
    process = subprocess.Popen(
        routed(netns).command(*COMMAND, *argv),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for_listener(netns, 4140)
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait(30)
    assert process.returncode == 95
    assert number.name in errors


def wait_for_listener(netns: Netns, port: int) -> None:
    deadline = time.monotonic() + 30
    while f":{port:04X} " not in netns.run("cat", "/proc/net/tcp", "/proc/net/tcp6"):
        assert time.monotonic() < deadline, "nothing listens"
        time.sleep(0.02)


LINK = ("link add eth0 type veth peer name nobody", "link set eth0 up", "link set nobody up")
IPV4 = ("addr add 10.77.0.1/24 dev eth0",)
IPV6 = ("addr add fd77::1/64 dev eth0 nodad",)
GATEWAYS = ("route add default via 10.77.0.254", "-6 route add default via fd77::fe")


def linked(netns: Netns, *words: str) -> Netns:
    """A pod's way out: a link that leads nowhere, so that nothing ever answers."""
    for line in (*LINK, *words):
        subprocess.run(["ip", "-n", netns.name, *line.split()], check=True)
    return netns


def routed(netns: Netns) -> Netns:
    return linked(netns, *IPV4, *IPV6, *GATEWAYS)


def ran(netns: Netns, *argv: str) -> subprocess.CompletedProcess[str]:
    """The command in the namespace, as a user with no capability at all."""
    line = netns.command(*validator_as_nobody(*argv))
    return subprocess.run(line, capture_output=True, text=True, timeout=60)


def validate_in(netns: Netns, wanted: Wanted, timeout: float = 5.0) -> tuple[str, ...]:
    """In this process, which takes no time to start."""
    with netns.entered():
        return validate(wanted, timeout)


def refused_in(netns: Netns, wanted: Wanted, timeout: float = 0.3) -> str:
    with pytest.raises(NotValidatedError) as caught:
        validate_in(netns, wanted, timeout)
    return str(caught.value)


@pytest.mark.root
@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--listen-addr", "0.0.0.0:4140", "--connect-addr", "1.1.1.1:20001"],
        ["--listen-addr", "[::]:4140", "--connect-addr", "[fd00::1]:20001"],
    ],
    ids=["bare", "ipv4", "ipv6"],
)
def test_a_redirected_pod_validates_without_a_capability(netns: Netns, argv: list[str]) -> None:
    NftBackend().apply(routed(netns).fd, REDIRECT)
    done = ran(netns, *argv)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Validated\n", "")


@pytest.mark.root
def test_a_pod_without_rules_does_not_start(netns: Netns) -> None:
    done = ran(routed(netns), "--timeout", "300ms")
    assert done.returncode == 95
    assert "no answer" in done.stderr
    assert "outbound IPv4 and IPv6 traffic is not redirected" in done.stderr
    assert "no connection to 192.0.2.2:1404" in done.stderr


@pytest.mark.root
def test_every_family_that_the_pod_has_must_be_redirected(netns: Netns) -> None:
    only_ipv4 = Redirect(inbound_port=4143, outbound_port=4140)
    NftBackend().apply(routed(netns).fd, only_ipv4)
    said = refused_in(netns, Wanted())
    assert "outbound IPv6 traffic is not redirected (IPv4 is)" in said
    # A mesh of IPv4 alone says so, by Linkerd's flag or by the rules that it wants.
    assert validate_in(netns, Wanted(listen=parse_address("0.0.0.0:4140"))) == ()
    assert validate_in(netns, Wanted(redirect=only_ipv4)) == ()


@pytest.mark.root
@pytest.mark.parametrize(
    "words",
    [
        IPV4,
        IPV6,
        (*IPV4, *IPV6),
        ("addr add 10.77.0.1/32 dev eth0", "route add 169.254.1.1 dev eth0"),
    ],
    ids=["ipv4", "ipv6", "both", "calico"],
)
def test_no_default_route_is_needed(netns: Netns, words: tuple[str, ...]) -> None:
    linked(netns, *words)
    assert "is not redirected" in refused_in(netns, Wanted())
    NftBackend().apply(netns.fd, REDIRECT)
    assert validate_in(netns, Wanted()) == ()


@pytest.mark.root
def test_a_family_that_nothing_can_leave_by_is_left_out_with_a_note(netns: Netns) -> None:
    linked(netns, *IPV4, "addr add fd77::1/128 dev eth0 nodad", "-6 route flush table main")
    NftBackend().apply(netns.fd, REDIRECT)
    assert validate_in(netns, Wanted()) == ("IPv6: the pod has no route, so nothing can leave it",)


@pytest.mark.root
@pytest.mark.parametrize("words", [None, ()], ids=["loopback", "link-local"])
def test_a_pod_without_an_address_does_not_start(
    netns: Netns, words: tuple[str, ...] | None
) -> None:
    if words is not None:
        linked(netns)
    NftBackend().apply(netns.fd, REDIRECT)
    assert "this pod has no address" in refused_in(netns, Wanted())


@pytest.mark.root
def test_what_the_pods_annotations_let_past_the_proxy_is_not_tried(netns: Netns) -> None:
    skipping = Redirect(
        inbound_port=4143,
        outbound_port=4140,
        ipv6=True,
        skip_outbound_ports=(PortRange(1, 50000),),
        skip_outbound_subnets=("192.0.2.0/24", "fd00::/8", "10.77.0.0/24", "::/0"),
    )
    NftBackend().apply(routed(netns).fd, skipping)
    notes = validate_in(netns, Wanted(redirect=skipping))
    assert notes == ("IPv6: all that could be tried goes past the proxy on purpose",)


# Inbound


def word_from_agent(netns: Netns, agent_backend: NftBackend, redirect: Redirect) -> None:
    """What the agent's witness does, until somebody heard it."""
    deadline = time.monotonic() + 20
    while tell(netns.fd, lambda: agent_backend.difference(netns.fd, redirect)) == "nothing":
        assert time.monotonic() < deadline, "no validator listens"
        time.sleep(0.01)


@pytest.mark.root
def test_wrong_inbound_rules_keep_the_pod_from_starting_if_the_agent_says_so(netns: Netns) -> None:
    """Outbound rules that work prove nothing about inbound: the agent's word does."""
    backend = NftBackend()
    backend.apply(routed(netns).fd, REDIRECT)
    netns.run("nft", "flush", "chain", "inet", "meshgraft", "PROXY_INIT_REDIRECT")
    agent = threading.Thread(target=word_from_agent, args=(netns, backend, REDIRECT))
    agent.start()
    try:
        with netns.entered(), pytest.raises(NotValidatedError) as caught:
            validate(Wanted(), 1.0, Inbound(wait=1.0))
    finally:
        agent.join(30)
    assert "inbound traffic is not redirected as it should be" in str(caught.value)
    assert "PROXY_INIT_REDIRECT" in str(caught.value)


@pytest.mark.root
@pytest.mark.parametrize("required", [False, True])
def test_an_agent_that_says_nothing_holds_up_only_who_requires_it(
    netns: Netns, required: bool
) -> None:
    NftBackend().apply(routed(netns).fd, REDIRECT)
    with netns.entered():
        if required:
            with pytest.raises(NotValidatedError, match=r"not known whether .* inbound"):
                validate(Wanted(), 0.4, Inbound(required=True))
        else:
            (note,) = validate(Wanted(), 5, Inbound(wait=0.1))
            assert note.startswith("inbound: this node's linkerd-cni agent did not say")


@pytest.mark.root
def test_the_witness_tells_a_waiting_validator_that_all_is_right(
    netns: Netns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(witness, "OLD_SECONDS", 0.2)
    (tmp_path / "cni-1").symlink_to(routed(netns).path)
    (tmp_path / "not-mounted").touch()
    expected = Expected()
    backend = RememberingBackend(NftBackend(), expected)
    backend.apply(netns.fd, REDIRECT)
    stop = threading.Event()
    thread = threading.Thread(target=Witness(backend, expected, tmp_path).run, args=(stop,))
    thread.start()
    try:
        with netns.entered():
            assert validate(Wanted(), 10, Inbound(required=True)) == ()
            # The container may run again.
            assert validate(Wanted(), 10, Inbound(required=True)) == ()
    finally:
        stop.set()
        thread.join(10)


@contextmanager
def mailbox(netns: Netns) -> Iterator[Mailbox]:
    with netns.entered():
        opened = Mailbox()
    try:
        yield opened
    finally:
        opened.close()


@pytest.mark.root
def test_a_pod_that_always_listens_keeps_the_witness_busy_for_a_small_part_of_the_time(
    netns: Netns, tmp_path: Path
) -> None:
    """With as many rules as are allowed, comparing them takes seconds."""
    (tmp_path / "cni-1").symlink_to(netns.path)
    times = {"now": 1000.0, "spent": 0.0}

    class Slow(NftBackend):
        def difference(self, netns_fd: int, redirect: Redirect) -> str | None:  # noqa: ARG002
            times["spent"] += 2.0
            return "one that will not go away"

    expected = Expected()
    expected.put(netns.fd, REDIRECT)
    told = Witness(Slow(), expected, tmp_path, lambda: times["now"], lambda: times["spent"])
    with mailbox(netns) as opened:
        for _ in range(10_000):
            told.look()
            times["now"] += witness.TICK_SECONDS
        assert opened.said_wrong() == "one that will not go away"
    assert 2 <= times["spent"] <= 1000 / witness.REST + 2


@pytest.mark.root
def test_one_namespace_does_not_keep_the_word_from_another(
    make_netns: Callable[[], Netns], tmp_path: Path
) -> None:
    bad, good = make_netns(), make_netns()
    expected = Expected()
    for netns in (bad, good):
        (tmp_path / netns.name).symlink_to(netns.path)
        expected.put(netns.fd, REDIRECT)

    class Stumbling(NftBackend):
        def difference(self, netns_fd: int, redirect: Redirect) -> str | None:  # noqa: ARG002
            if identity(netns_fd) == identity(bad.fd):
                raise KeyError("a bug")
            return None

    told = Witness(Stumbling(), expected, tmp_path)
    with mailbox(bad), mailbox(good) as opened:
        told.look()
        assert opened.said_right()


@pytest.mark.root
def test_rules_that_come_while_it_waits_let_the_pod_start(netns: Netns) -> None:
    process = subprocess.Popen(
        routed(netns).command(*COMMAND, "--timeout", "30s"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "LINKERD_NETWORK_VALIDATOR_LOG_LEVEL": "debug"},
    )
    try:
        wait_for_listener(netns, 4140)
        NftBackend().apply(netns.fd, REDIRECT)
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait(30)
    assert (process.returncode, output) == (0, "Validated\n"), errors


@pytest.mark.root
def test_a_round_has_an_end_however_many_are_slow_and_nobody_is_forgotten(
    make_netns: Callable[[], Netns], tmp_path: Path
) -> None:
    times = {"now": 1000.0, "spent": 0.0}
    compared: list[tuple[int, int]] = []

    class Slow(NftBackend):
        def difference(self, netns_fd: int, redirect: Redirect) -> str | None:  # noqa: ARG002
            times["spent"] += 0.2
            compared.append(identity(netns_fd))
            return "not right yet"

    expected, all_of_them = Expected(), [make_netns() for _ in range(6)]
    for netns in all_of_them:
        (tmp_path / netns.name).symlink_to(netns.path)
        expected.put(netns.fd, REDIRECT)
    told = Witness(Slow(), expected, tmp_path, lambda: times["now"], lambda: times["spent"])
    with ExitStack() as stack:
        for netns in all_of_them:
            stack.enter_context(mailbox(netns))
        for _ in range(3):
            before = times["spent"]
            told.look()
            assert times["spent"] - before <= witness.ROUND + 0.2
            times["now"] += witness.TICK_SECONDS
    assert sorted(compared) == sorted(identity(netns.fd) for netns in all_of_them)
