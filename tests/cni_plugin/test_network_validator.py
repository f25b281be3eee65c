"""The validator passes only where its own connection comes back to it; else exit code 95."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cni_plugin.network_validator import (
    Address,
    NotValidatedError,
    make_token,
    parse_address,
    parse_timeout,
    validate,
)
from cni_plugin.nft import NftBackend
from injector.annotations.redirect import Redirect
from meshgraft.lab.netns import Netns

COMMAND = [sys.executable, "-m", "meshgraft", "network-validator"]
REDIRECT = Redirect(inbound_port=4143, outbound_port=4140, ipv6=True)


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
    own = Address("127.0.0.1", free_port())
    validate(own, own, 5)


@pytest.mark.parametrize(
    ("answer", "seen"), [(b"x" * 64, "with other words than ours"), (b"hello", "hung up")]
)
def test_an_answer_of_somebody_else_does_not_validate(answer: bytes, seen: str) -> None:
    with stranger(answer) as address, pytest.raises(NotValidatedError, match=seen):
        validate(Address("127.0.0.1", free_port()), address, 0.3)


def test_a_refused_connection_is_told_with_what_to_look_at() -> None:
    with pytest.raises(NotValidatedError) as caught:
        validate(Address("127.0.0.1", free_port()), Address("127.0.0.1", free_port()), 0.2)
    assert "connection refused" in str(caught.value)
    assert "Look at the linkerd-cni pod on this node" in str(caught.value)


def test_a_port_in_use_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        own = Address("127.0.0.1", server.getsockname()[1])
        with pytest.raises(NotValidatedError, match=r"cannot listen on .*already in use"):
            validate(own, own, 1)


@pytest.mark.parametrize(
    ("listen", "connect", "says"),
    [
        ("[::]:4140", "192.0.2.2:1404", "cannot listen on [::]:4140: address family not supported"),
        ("127.0.0.1:0", "[fd00::1]:20001", "what was seen there: address family not supported"),
    ],
)
def test_a_kernel_without_ipv6_is_told_as_such(
    listen: str, connect: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class WithoutIPv6(socket.socket):
        def __init__(self, family: int = -1, *args: int, **kwargs: int) -> None:
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
            super().__init__(family, *args, **kwargs)

    monkeypatch.setattr(socket, "socket", WithoutIPv6)
    with pytest.raises(NotValidatedError) as caught:
        validate(parse_address(listen), parse_address(connect), 0.2)
    assert says in str(caught.value)
    assert "the node has no IPv6" in str(caught.value)


def test_an_interface_that_is_not_there_does_not_validate() -> None:
    with pytest.raises(NotValidatedError):
        validate(Address("127.0.0.1", 0), parse_address("[fe80::1%nowhere0]:1"), 0.2)


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
        netns.command(*COMMAND, *argv), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
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


def routed(netns: Netns) -> Netns:
    """A pod's way out: a link that leads nowhere, so that nothing ever answers."""
    ip = ["ip", "-n", netns.name]
    for words in (
        "link add eth0 type veth peer name nobody",
        "link set eth0 up",
        "link set nobody up",
        "addr add 10.77.0.1/24 dev eth0",
        "addr add fd77::1/64 dev eth0 nodad",
        "route add default via 10.77.0.254",
        "-6 route add default via fd77::fe",
    ):
        subprocess.run([*ip, *words.split()], check=True)
    return netns


@pytest.mark.root
@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--listen-addr", "[::]:4140", "--connect-addr", "[fd00::1]:20001"],
    ],
    ids=["ipv4", "ipv6"],
)
def test_a_redirected_pod_validates_and_one_without_rules_does_not(
    netns: Netns, argv: list[str]
) -> None:
    line = routed(netns).command(*COMMAND, *argv)
    without = subprocess.run(
        [*line, "--timeout", "300ms"], capture_output=True, text=True, timeout=60
    )
    NftBackend().apply(netns.fd, REDIRECT)
    with_rules = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert without.returncode == 95
    assert "no answer" in without.stderr
    assert (with_rules.returncode, with_rules.stdout) == (0, "Validated\n"), with_rules.stderr


@pytest.mark.root
def test_a_pod_without_a_default_route_is_told_so(netns: Netns) -> None:
    done = subprocess.run(
        netns.command(*COMMAND, "--timeout", "200ms"), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 95
    assert "the pod has no default route" in done.stderr


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
