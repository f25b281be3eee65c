"""Protobuf's wire format, against bytes from its documentation and its own way back."""

from __future__ import annotations

import pytest

from tests.chain.protobuf import Message, decode, encode, texts


@pytest.mark.parametrize(
    ("message", "data"),
    [
        ([(1, 150)], "08 96 01"),
        ([(2, "testing")], "12 07 74 65 73 74 69 6e 67"),
        ([(3, [(1, 150)])], "1a 03 08 96 01"),
        ([], ""),
    ],
    ids=["number", "text", "nested", "empty"],
)
def test_messages_are_those_of_the_documentation(message: Message, data: str) -> None:
    assert encode(message) == bytes.fromhex(data)


def test_what_is_encoded_is_decoded_again() -> None:
    assert decode(encode([(1, 1 << 40), (16, b"\0x"), (16, "y"), (2, 0)])) == {
        1: [1 << 40],
        16: [b"\0x", b"y"],
        2: [0],
    }
    (entry,) = texts([("key", "value")])
    assert decode(encode(entry)) == {1: [b"key"], 2: [b"value"]}


def test_fixed_sizes_are_taken_as_bytes() -> None:
    assert decode(bytes.fromhex("09 0102030405060708 15 01020304")) == {
        1: [bytes(range(1, 9))],
        2: [bytes(range(1, 5))],
    }


@pytest.mark.parametrize("data", ["08", "08 96", "0b 00"])
def test_what_is_no_message_is_refused(data: str) -> None:
    with pytest.raises(ValueError, match="protobuf"):
        decode(bytes.fromhex(data))
