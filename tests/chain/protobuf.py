"""Protobuf's wire format, as much of it as a client of the CRI needs; no generated code."""

from __future__ import annotations

from collections.abc import Iterable

Message = Iterable[tuple[int, "int | str | bytes | Message"]]
"""Fields in order: number and value. A bool is an int, a nested message another such list."""

Decoded = dict[int, list["int | bytes"]]
"""The values of each field number; a nested message is still bytes."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def encode(message: Message) -> bytes:
    """The message's bytes. Negative numbers and floats are not needed and not encoded."""
    return b"".join(_field(number, value) for number, value in message)


def decode(data: bytes) -> Decoded:
    """The message's fields; numbers are taken as unsigned.

    Raises:
        ValueError: these bytes are no message.
    """
    fields: Decoded = {}
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        kind = key & 7
        value: int | bytes
        if kind == _VARINT:
            value, at = _read_varint(data, at)
        else:
            length, at = _read_varint(data, at) if kind == _BYTES else (_fixed_size(kind), at)
            value, at = data[at : at + length], at + length
        fields.setdefault(key >> 3, []).append(value)
    return fields


def texts(pairs: Iterable[tuple[str, str]]) -> list[Message]:
    """The entries of a ``map<string, string>``."""
    return [[(1, key), (2, value)] for key, value in pairs]


def _field(number: int, value: int | str | bytes | Message) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3 | _VARINT) + _varint(value)
    if isinstance(value, str):
        value = value.encode()
    elif not isinstance(value, bytes):
        value = encode(value)
    return _varint(number << 3 | _BYTES) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    data.append(value)
    return bytes(data)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data):
            raise ValueError("a protobuf message ends in the middle of a number")
        value |= (data[at] & 0x7F) << shift
        at += 1
        if not data[at - 1] & 0x80:
            return value, at
        shift += 7


def _fixed_size(kind: int) -> int:
    if kind not in (_FIXED64, _FIXED32):
        raise ValueError(f"a protobuf message with a field of unknown kind {kind}")
    return 8 if kind == _FIXED64 else 4
