"""Sockets in real network namespaces, handed over to a relay that comes, goes and comes back."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cni_plugin.pods.netns import NetnsNotFoundError
from cni_plugin.pods.source import Pod
from cni_plugin.sockets.keeper import PATIENCE_SECONDS, SocketKeeper, about_of
from cni_plugin.sockets.opener import TakenError, open_socket
from meshgraft.lab.netns import RUN_NETNS, Netns
from vocabulary.handover import MAX_BYTES, Closed, Holding, Opened, decode, encode

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces want root"),
]
ABOUT = Opened("u1", "shop", "web-0", 2102)
REDIRECT = '{"version":1,"inboundPort":4143,"outboundPort":4140,"proxyUid":2102}'


@pytest.fixture
def netns() -> Iterator[Netns]:
    made = Netns(f"mglab-{os.getpid()}-keeper")
    yield made
    made.close()


class Relay:
    """Listens as the relay does, and takes what comes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        path.unlink(missing_ok=True)
        self.listener.bind(str(path))
        self.listener.listen()
        self.listener.settimeout(5)

    def accept(self, *holding: str) -> socket.socket:
        connection, _ = self.listener.accept()
        connection.settimeout(5)
        connection.send(encode(Holding(holding)))
        return connection

    def close(self) -> None:
        self.listener.close()


def received(connection: socket.socket) -> tuple[Any, list[int]]:
    packet, fds, _, _ = socket.recv_fds(connection, MAX_BYTES, 4)
    return decode(packet), fds


class Setup:
    def __init__(self, tmp_path: Path, netns: Netns) -> None:
        self.now = 0.0
        self.connections: list[socket.socket] = []
        self.pods: list[Pod] = []
        self.netns = netns
        self.path = tmp_path / "relay.sock"
        self.relay = Relay(self.path)
        self.keeper = SocketKeeper(self.path, lambda: self.pods, self, RUN_NETNS, lambda: self.now)

    @contextmanager
    def opened(self, pod: Pod, *, fresh: bool = False) -> Iterator[int]:  # noqa: ARG002
        if pod.metadata.name != "web-0":
            raise NetnsNotFoundError("there is none")
        yield self.netns.fd

    def connected(self, *holding: str) -> socket.socket:
        """A relay that has accepted, with what the keeper had to say in its first round."""
        looking = threading.Thread(target=self.keeper.look)
        looking.start()
        connection = self.relay.accept(*holding)
        looking.join(10)
        self.connections.append(connection)
        return connection


@pytest.fixture
def setup(tmp_path: Path, netns: Netns) -> Iterator[Setup]:
    made = Setup(tmp_path, netns)
    yield made
    made.keeper._disconnect()
    made.relay.close()
    for connection in made.connections:
        connection.close()


def pod(name: str = "web-0", **annotations: str) -> Pod:
    given = {"meshgraft.io/mesh": "enabled", "meshgraft.io/redirect": REDIRECT, **annotations}
    metadata = {"name": name, "namespace": "shop", "uid": "u1", "annotations": given}
    return msgspec.convert({"metadata": metadata}, Pod)


def reaches(netns: Netns) -> bool:
    with netns.entered():
        client = socket.socket(socket.AF_UNIX)
    with client:
        try:
            client.connect("\0meshgraft.xds")
        except ConnectionRefusedError:
            return False
        return True


def test_the_socket_is_inside_and_nowhere_else(netns: Netns) -> None:
    listener = open_socket(netns.fd)
    assert reaches(netns)
    with socket.socket(socket.AF_UNIX) as outside, pytest.raises(ConnectionRefusedError):
        outside.connect("\0meshgraft.xds")
    with pytest.raises(TakenError):
        open_socket(netns.fd)
    listener.close()
    assert not reaches(netns)


def test_a_pod_that_was_added_is_handed_over(setup: Setup) -> None:
    setup.keeper.added(ABOUT, setup.netns.fd)
    assert reaches(setup.netns)
    connection = setup.connected()
    message, (fd,) = received(connection)
    assert message == ABOUT
    with socket.socket(fileno=fd) as listener:
        assert reaches(setup.netns)
        listener.accept()[0].close()
    # Nothing is held here any more: the relay's was the last.
    assert not reaches(setup.netns)


def test_after_a_start_what_the_relay_holds_is_left_and_what_it_lacks_is_opened(
    setup: Setup,
) -> None:
    setup.pods = [pod(), pod("elsewhere")]
    held = open_socket(setup.netns.fd)
    connection = setup.connected("u1")
    setup.keeper.look()
    connection.settimeout(0.2)
    with pytest.raises(TimeoutError):
        received(connection)
    held.close()
    # The next relay has nothing.
    connection.close()
    setup.keeper.look()
    message, fds = received(setup.connected())
    assert message == ABOUT
    for each in fds:
        os.close(each)


def test_a_relay_that_comes_back_gets_everything_again(setup: Setup) -> None:
    setup.keeper.added(ABOUT, setup.netns.fd)
    first = setup.connected()
    _, fds = received(first)
    for each in fds:
        os.close(each)
    first.close()
    setup.relay.close()
    setup.keeper.look()
    assert setup.keeper.problem() is None
    setup.keeper.look()
    assert "does not answer" in (setup.keeper.problem() or "")
    setup.relay = Relay(setup.path)
    second = setup.connected()
    message, (fd,) = received(second)
    os.close(fd)
    assert message == ABOUT
    assert setup.keeper.problem() is None


def test_a_pod_whose_namespace_is_gone_is_closed(setup: Setup, netns: Netns) -> None:
    setup.keeper.added(ABOUT, netns.fd)
    connection = setup.connected()
    _, (fd,) = received(connection)
    os.close(fd)
    netns.close()
    setup.keeper.look()
    setup.now = PATIENCE_SECONDS + 1
    setup.keeper.look()
    message, _ = received(connection)
    assert message == Closed("u1")


@pytest.mark.parametrize(
    "annotations",
    [
        {"meshgraft.io/mesh": "no"},
        {"meshgraft.io/redirect": "{}"},
    ],
)
def test_a_pod_that_is_not_in_the_mesh_gets_no_socket(annotations: dict[str, str]) -> None:
    assert about_of(pod(**annotations)) is None


def test_a_pod_of_the_mesh_says_who_may_connect() -> None:
    assert about_of(pod()) == ABOUT
