"""What the node's agent and its relay say to each other: whose sockets are open.

One packet (SOCK_SEQPACKET) is one message, as JSON; the listening socket of an `Opened` comes with
it (SCM_RIGHTS). The relay speaks first: it says what it has, so that after a start of either only
what is missing is opened again.
"""

from __future__ import annotations

import msgspec

from vocabulary.errors import MeshgraftError

RELAY_SOCKET = "/run/meshgraft/relay.sock"
MAX_BYTES = 256 * 1024


class Opened(msgspec.Struct, frozen=True, tag="opened", tag_field="says"):
    """A socket listens in a pod's network namespace; it comes with this message."""

    uid: str
    """Of the pod."""
    namespace: str
    name: str
    proxy_uid: int
    """The user that may connect, as the socket will say it."""


class Closed(msgspec.Struct, frozen=True, tag="closed", tag_field="says"):
    """The pod is gone: its socket would keep its network namespace alive for nobody."""

    uid: str


class Holding(msgspec.Struct, frozen=True, tag="holding", tag_field="says"):
    """The relay holds the sockets of these pods."""

    uids: tuple[str, ...]


Message = Opened | Closed | Holding
_decoder: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)


class BadMessageError(MeshgraftError, ValueError):
    """What came is no message of agent or relay."""


def encode(message: Message) -> bytes:
    """One packet."""
    return msgspec.json.encode(message)


def decode(packet: bytes) -> Message:
    """What a packet says.

    Raises:
        BadMessageError: it is none.
    """
    try:
        return _decoder.decode(packet)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise BadMessageError(f"not a message between agent and relay: {error}") from error
