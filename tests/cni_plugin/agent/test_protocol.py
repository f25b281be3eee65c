"""The framing between the static program and the agent, and CNI's errors."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_plugin.agent.protocol import (
    MAX_ENV,
    MAX_STDERR,
    MAX_STDIN,
    MAX_STDOUT,
    REQUEST_HEADER_SIZE,
    ProtocolError,
    Request,
    Response,
)
from cni_plugin.spec import CniError, Code

names = st.text(st.characters(min_codepoint=65, max_codepoint=90), min_size=1)
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"))


@given(st.dictionaries(names, texts), st.binary())
def test_a_request_survives_the_wire(env: dict[str, str], stdin: bytes) -> None:
    data = Request(env, stdin).encode()
    assert Request.decode(data) == Request(env, stdin)
    assert Request.body_size(data[:REQUEST_HEADER_SIZE]) == len(data) - REQUEST_HEADER_SIZE


@given(st.integers(0, 255), st.binary(), st.binary())
def test_a_response_survives_the_wire(exit_code: int, stdout: bytes, stderr: bytes) -> None:
    response = Response(exit_code, stdout, stderr)
    assert Response.decode(response.encode()) == response


def test_the_bytes_of_a_request_are_these() -> None:
    data = Request({"CNI_COMMAND": "ADD", "CNI_ARGS": "a=b"}, b"{}").encode()
    assert data == b"MGRQ\0\0\0\1\0\0\0\x1d\0\0\0\2CNI_COMMAND=ADD\0CNI_ARGS=a=b\0{}"


def test_the_bytes_of_a_response_are_these() -> None:
    data = Response(1, b"out", b"er").encode()
    assert data == b"MGRS\0\0\0\1\0\0\0\1\0\0\0\3\0\0\0\2outer"


@given(st.binary(max_size=64))
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        Request.decode(data)
    with pytest.raises(ProtocolError):
        Response.decode(data)


@given(st.data())
def test_a_part_is_not_a_whole(data: st.DataObject) -> None:
    request, response = Request({"A": "b"}, b"c").encode(), Response(0, b"d", b"e").encode()
    with pytest.raises(ProtocolError):
        Request.decode(request[: data.draw(st.integers(0, len(request) - 1))])
    with pytest.raises(ProtocolError):
        Response.decode(response[: data.draw(st.integers(0, len(response) - 1))])


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (b"MGRS\0\0\0\1\0\0\0\0\0\0\0\0", "starts with"),
        (b"MGRQ\0\0\0\2\0\0\0\0\0\0\0\0", "version 2"),
        (b"MGRQ\0\0\0\1\0\1\0\1\0\0\0\0", "environment of 65537 bytes"),
        (b"MGRQ\0\0\0\1\0\0\0\0\0\x20\0\1", "stdin of 2097153 bytes"),
        (b"MGRQ", "too few"),
    ],
)
def test_a_bad_header_is_refused_by_what_is_wrong(header: bytes, said: str) -> None:
    with pytest.raises(ProtocolError, match=said):
        Request.body_size(header)


def test_what_is_too_large_is_not_sent() -> None:
    with pytest.raises(ProtocolError, match="environment"):
        Request({"A": "x" * MAX_ENV}).encode()
    with pytest.raises(ProtocolError, match="stdin"):
        Request({}, b"x" * (MAX_STDIN + 1)).encode()
    with pytest.raises(ProtocolError, match="stdout"):
        Response(0, b"x" * (MAX_STDOUT + 1)).encode()


def test_too_much_stderr_is_cut() -> None:
    response = Response(0, b"out", b"x" * (MAX_STDERR + 1))
    assert Response.decode(response.encode()).stderr == b"x" * MAX_STDERR


def test_an_environment_that_is_not_utf8_is_still_an_environment() -> None:
    data = Request({"A": "?"}).encode().replace(b"A=?", b"A=\xff")
    assert Request.decode(data).env == {"A": "\ufffd"}


def test_an_error_becomes_the_json_of_cni() -> None:
    error = CniError(Code.TRY_AGAIN_LATER, 'pod "a/b"', "why")
    assert json.loads(error.to_json("0.4.0")) == {
        "cniVersion": "0.4.0",
        "code": 11,
        "msg": 'pod "a/b"',
        "details": "why",
    }
    assert json.loads(error.to_json())["cniVersion"] == "1.1.0"
