"""The one RPC of incremental xDS in grpclib's terms: its messages are our own."""

from __future__ import annotations

from typing import Any

from grpclib.encoding.base import CodecBase


class Codec(CodecBase):
    """Messages that encode and decode themselves."""

    __content_subtype__ = "proto"

    def encode(self, message: Any, message_type: Any) -> bytes:  # noqa: ARG002
        """As `grpclib.encoding.base.CodecBase`."""
        return bytes(message.encode())

    def decode(self, data: bytes, message_type: Any) -> Any:
        """As `grpclib.encoding.base.CodecBase`."""
        return message_type.decode(data)
