"""The two messages of incremental xDS, to and from bytes.

Resources stay encoded: a response is made of bytes that were made once, whoever gets them. Source:
``envoy/service/discovery/v3/discovery.proto`` (DeltaDiscoveryRequest, DeltaDiscoveryResponse,
Resource), of which only the fields that are used are described here; others are skipped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError

from mesh.xds.protobuf import BYTES, MESSAGE, REPEATED, STRING, declare
from vocabulary.errors import MeshgraftError

METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"

_M = declare(
    "xds",
    {
        "Status": {"message": (2, STRING)},
        "Any": {"type_url": (1, STRING), "value": (2, BYTES)},
        "Resource": {
            "version": (1, STRING),
            "resource": (2, MESSAGE, "Any"),
            "name": (3, STRING),
            # Ours, between control and relay: numbers that Envoy's message does not have.
            "follows": (1000, MESSAGE | REPEATED, "Version"),
            "source": (1001, STRING),
        },
        "Version": {"key": (1, STRING), "value": (2, STRING)},
        "Request": {
            "node": (1, BYTES),
            "type_url": (2, STRING),
            "subscribe": (3, STRING | REPEATED),
            "unsubscribe": (4, STRING | REPEATED),
            "versions": (5, MESSAGE | REPEATED, "Version"),
            "nonce": (6, STRING),
            "error": (7, MESSAGE, "Status"),
        },
        "Response": {
            "resources": (2, BYTES | REPEATED),
            "type_url": (4, STRING),
            "nonce": (5, STRING),
            "removed": (6, STRING | REPEATED),
        },
    },
)


def digest(value: bytes) -> str:
    """A version that whoever makes the same bytes comes to as well."""
    return hashlib.blake2b(value, digest_size=8).hexdigest()


class MessageError(MeshgraftError, ValueError):
    """What came is no message of incremental xDS."""


class Key(NamedTuple):
    """Which resource: its type's URL and its name."""

    type_url: str
    name: str


@dataclass(frozen=True)
class Resource:
    """One resource, encoded; two of one key and version are taken to be the same."""

    key: Key
    version: str
    value: bytes
    """The message that ``type_url`` names."""
    follows: tuple[Key, ...] = ()
    """What a client that gets this one has to get again, if it has subscribed to it: Envoy waits
    for the ClusterLoadAssignment after each Cluster, also after one that says nothing new."""
    source: str = ""
    """What it was made of, for whoever reads that a client refused it: ``service shop/web``."""

    @cached_property
    def encoded(self) -> bytes:
        """As it stands in a response."""
        message = _M["Resource"](version=self.version, name=self.key.name)
        message.resource.type_url = self.key.type_url
        message.resource.value = self.value
        return bytes(message.SerializeToString())

    @cached_property
    def whole(self) -> bytes:
        """The same with what a relay needs to serve it on: what follows it, and its source."""
        message = _M["Resource"](source=self.source)
        for key in self.follows:
            message.follows.add(key=key.type_url, value=key.name)
        # Two encodings of one message, one after the other, are one of both (protobuf's merging).
        return self.encoded + bytes(message.SerializeToString())

    def renamed(self, name: str) -> Resource:
        """The same under another name, by which another client asks for it."""
        return replace(self, key=Key(self.key.type_url, name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a client asks for, and what it says about the response before."""

    type_url: str
    subscribe: tuple[str, ...] = ()
    unsubscribe: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    """What it holds already, by name; in the first request of a type alone."""
    nonce: str = ""
    """Of the response that this acknowledges, or refuses; empty where it does neither."""
    error: str | None = None
    """Why it refuses that response; None where it takes it."""
    node: bytes = b""

    def encode(self) -> bytes:
        """As it goes over the wire."""
        message = _M["Request"](
            node=self.node,
            type_url=self.type_url,
            subscribe=self.subscribe,
            unsubscribe=self.unsubscribe,
            nonce=self.nonce,
        )
        for name, version in self.versions.items():
            message.versions.add(key=name, value=version)
        if self.error is not None:
            message.error.message = self.error
        return bytes(message.SerializeToString())

    @classmethod
    def decode(cls, data: bytes) -> Request:
        """A request from the wire.

        Raises:
            MessageError: it is none.
        """
        message = _parsed("Request", data)
        return cls(
            type_url=message.type_url,
            subscribe=tuple(message.subscribe),
            unsubscribe=tuple(message.unsubscribe),
            versions={each.key: each.value for each in message.versions},
            nonce=message.nonce,
            error=message.error.message if message.HasField("error") else None,
            node=message.node,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """Resources of one type that are new to a client, and the names of those that are gone."""

    type_url: str
    nonce: str
    resources: tuple[Resource, ...] = ()
    removed: tuple[str, ...] = ()
    whole: bool = False
    """Whether the client is a relay, which serves the resources on."""

    def encode(self) -> bytes:
        """As it goes over the wire."""
        message = _M["Response"](
            type_url=self.type_url,
            nonce=self.nonce,
            resources=[one.whole if self.whole else one.encoded for one in self.resources],
            removed=self.removed,
        )
        return bytes(message.SerializeToString())

    @classmethod
    def decode(cls, data: bytes) -> Response:
        """A response from the wire.

        Raises:
            MessageError: it is none.
        """
        message = _parsed("Response", data)
        return cls(
            type_url=message.type_url,
            nonce=message.nonce,
            resources=tuple(_resource(each) for each in message.resources),
            removed=tuple(message.removed),
        )


def _resource(data: bytes) -> Resource:
    message = _parsed("Resource", data)
    key = Key(message.resource.type_url, message.name)
    follows = tuple(Key(each.key, each.value) for each in message.follows)
    return Resource(key, message.version, message.resource.value, follows, message.source)


def _parsed(name: str, data: bytes) -> Any:
    message = _M[name]()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise MessageError(f"not a {name.lower()} of incremental xDS: {error}") from error
    return message
