"""Reading a request and its descriptor from a connection, within a deadline."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_plugin.agent.protocol import MAX_STDOUT, ProtocolError, Request, Response
from cni_plugin.agent.wire import Wire

REQUEST = Request({"CNI_COMMAND": "ADD"}, b"{}" * 20)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_the_descriptor_arrives_with_the_request(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    socket.send_fds(theirs, [REQUEST.encode()], [theirs.fileno()])
    request, fd = Wire(ours, 5).receive()
    assert request == REQUEST
    assert fd is not None
    assert os.fstat(fd).st_ino == os.fstat(theirs.fileno()).st_ino
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_a_request_may_come_without_descriptor(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.sendall(REQUEST.encode())
    assert Wire(ours, 5).receive() == (REQUEST, None)


@given(st.data())
def test_a_connection_that_ends_early_is_told(data: st.DataObject) -> None:
    whole = REQUEST.encode()
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            theirs.sendall(whole[: data.draw(st.integers(0, len(whole) - 1))])
        with pytest.raises(ProtocolError, match="ended after"):
            Wire(ours, 5).receive()


def test_the_deadline_is_for_the_whole_request(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.sendall(REQUEST.encode()[:-1])
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        Wire(ours, 0.1).receive()
    assert time.monotonic() - started < 2


def test_a_response_that_nobody_reads_ends_at_the_deadline(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, _theirs = pair
    with pytest.raises(TimeoutError):
        Wire(ours, 0.1).send(Response(0, b"x" * MAX_STDOUT).encode())


def test_time_that_the_agent_took_itself_is_not_held_against_the_caller(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = pair
    theirs.sendall(REQUEST.encode())
    wire = Wire(ours, 5)
    wire.receive()
    later = time.monotonic() + 60
    monkeypatch.setattr(time, "monotonic", lambda: later)
    wire.send(b"x")
    assert theirs.recv(1) == b"x"


def test_a_deadline_that_has_passed_is_said(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, _theirs = pair
    with pytest.raises(TimeoutError, match="too slow"):
        Wire(ours, 0).send(b"x")
