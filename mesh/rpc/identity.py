"""The RPCs of identity: a request goes in with the caller's token, a certificate comes out."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

from google.protobuf.message import DecodeError

from mesh.xds.messages import MessageError
from mesh.xds.protobuf import BYTES, STRING, declare

SIGN_POD = "/meshgraft.identity.v1.Identity/SignPod"
"""For a pod on the caller's node."""
SIGN_SERVER = "/meshgraft.identity.v1.Identity/SignServer"
"""For a server of the mesh itself: the caller's own Service."""

_M = declare(
    "identity",
    {
        "PodRequest": {
            "namespace": (1, STRING),
            "name": (2, STRING),
            "uid": (3, STRING),
            "request": (4, BYTES),
        },
        "ServerRequest": {"request": (1, BYTES)},
        "Signed": {"chain": (1, BYTES), "roots": (2, BYTES)},
    },
)


@dataclass(frozen=True)
class _Message:
    """Encodes and decodes itself, field by field."""

    _of: ClassVar[str]

    def encode(self) -> bytes:
        """As it goes over the wire."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return bytes(_M[self._of](**values).SerializeToString())

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """From the wire.

        Raises:
            MessageError: it is something else.
        """
        message: Any = _M[cls._of]()
        try:
            message.ParseFromString(data)
        except DecodeError as error:
            raise MessageError(f"not a {cls._of} of identity: {error}") from error
        return cls(**{each.name: getattr(message, each.name) for each in fields(cls)})


@dataclass(frozen=True, slots=True)
class PodRequest(_Message):
    """Whose certificate is asked for. Only the key in ``request`` counts: who the pod is, the API
    server says."""

    _of: ClassVar[str] = "PodRequest"
    namespace: str
    name: str
    uid: str
    request: bytes
    """A certificate signing request, PEM."""


@dataclass(frozen=True, slots=True)
class ServerRequest(_Message):
    """A server of the mesh asks for the certificate of its Service."""

    _of: ClassVar[str] = "ServerRequest"
    request: bytes
    """A certificate signing request, PEM."""


@dataclass(frozen=True, slots=True)
class Signed(_Message):
    """A certificate with its chain, and the roots to trust, PEM."""

    _of: ClassVar[str] = "Signed"
    chain: bytes
    roots: bytes
