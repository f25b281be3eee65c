"""What the static plugin program and the agent say to each other, and CNI's errors: plain bytes.

A request is a header, the environment (``KEY=VALUE``, each ended by NUL) and stdin; the open
netns descriptor travels beside its first byte (SCM_RIGHTS). A response is a header, stdout and
stderr. Numbers are unsigned, 32 bits, network byte order. The other end is
``cni_plugin/shim/linkerd-cni.c``; the two must agree on every line here.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

VERSION = 1
MAX_ENV = 64 << 10
MAX_STDIN = 2 << 20
"""A pod may have 256 KiB of annotations, of which the runtime may write each byte as six."""
MAX_STDOUT = 2 << 20
MAX_STDERR = 64 << 10

_REQUEST = struct.Struct("!4sIII")
_RESPONSE = struct.Struct("!4sIIII")
_REQUEST_MAGIC = b"MGRQ"
_RESPONSE_MAGIC = b"MGRS"

REQUEST_HEADER_SIZE = _REQUEST.size
RESPONSE_HEADER_SIZE = _RESPONSE.size


class ProtocolError(ValueError):
    """Bytes that are not of this protocol, not of this version of it, or beyond its bounds."""


def _header(layout: struct.Struct, magic: bytes, data: bytes) -> tuple[int, ...]:
    if len(data) < layout.size:
        raise ProtocolError(f"{len(data)} bytes are too few for a header of {layout.size}")
    found, version, *numbers = layout.unpack_from(data)
    if found != magic:
        raise ProtocolError(f"starts with {found!r}, not with {magic!r}")
    if version != VERSION:
        raise ProtocolError(f"speaks version {version} of the protocol, not {VERSION}")
    return tuple(numbers)


def _within(what: str, size: int, limit: int) -> int:
    if size > limit:
        raise ProtocolError(f"{what} of {size} bytes is larger than {limit}")
    return size


@dataclass(frozen=True, slots=True)
class Request:
    """One call of the plugin: the variables ``CNI_*`` and what the runtime wrote to stdin."""

    env: Mapping[str, str]
    stdin: bytes = b""

    def encode(self) -> bytes:
        """The bytes on the wire.

        Raises:
            ProtocolError: larger than the protocol allows.
        """
        env = b"".join(f"{key}={value}\0".encode() for key, value in self.env.items())
        sizes = (
            _within("environment", len(env), MAX_ENV),
            _within("stdin", len(self.stdin), MAX_STDIN),
        )
        return _REQUEST.pack(_REQUEST_MAGIC, VERSION, *sizes) + env + self.stdin

    @staticmethod
    def body_size(header: bytes) -> int:
        """How many bytes follow this header.

        Raises:
            ProtocolError: not the header of a request, or beyond the bounds.
        """
        env, stdin = _header(_REQUEST, _REQUEST_MAGIC, header)
        return _within("environment", env, MAX_ENV) + _within("stdin", stdin, MAX_STDIN)

    @classmethod
    def decode(cls, data: bytes) -> Request:
        """The request in these bytes, header included. Of a variable named twice the last counts.

        Raises:
            ProtocolError: not exactly one whole request.
        """
        if len(data) - REQUEST_HEADER_SIZE != cls.body_size(data):
            raise ProtocolError("the request is not as long as its header says")
        env_size, _ = _header(_REQUEST, _REQUEST_MAGIC, data)
        env = data[REQUEST_HEADER_SIZE : REQUEST_HEADER_SIZE + env_size]
        pairs = (
            entry.decode(errors="replace").partition("=") for entry in env.split(b"\0") if entry
        )
        return cls({key: value for key, _, value in pairs}, data[REQUEST_HEADER_SIZE + env_size :])


@dataclass(frozen=True, slots=True)
class Response:
    """What the plugin program is to print, and its exit code (0 to 255)."""

    exit_code: int = 0
    stdout: bytes = b""
    stderr: bytes = b""

    def encode(self) -> bytes:
        """The bytes on the wire. Too much stderr is cut, because a log line must not fail a pod.

        Raises:
            ProtocolError: stdout is larger than the protocol allows.
        """
        stderr = self.stderr[:MAX_STDERR]
        _within("stdout", len(self.stdout), MAX_STDOUT)
        sizes = len(self.stdout), len(stderr)
        head = _RESPONSE.pack(_RESPONSE_MAGIC, VERSION, self.exit_code, *sizes)
        return head + self.stdout + stderr

    @classmethod
    def decode(cls, data: bytes) -> Response:
        """The response in these bytes, header included.

        Raises:
            ProtocolError: not exactly one whole response.
        """
        exit_code, out, err = _header(_RESPONSE, _RESPONSE_MAGIC, data)
        _within("stdout", out, MAX_STDOUT)
        _within("stderr", err, MAX_STDERR)
        body = data[RESPONSE_HEADER_SIZE:]
        if exit_code > 255 or len(body) != out + err:
            raise ProtocolError("the response is not as its header says")
        return cls(exit_code, body[:out], body[out:])
