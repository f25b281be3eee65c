"""`Redirect`: what a pod's traffic rules should be, as one value that both halves agree on.

The injector writes it, finished, to the pod's annotation ``meshgraft.io/redirect``; the runtime
hands it to the CNI plugin with the pod's annotations; so an ADD needs no API call. It lives
beside the annotations because it *is* one: this is the only thing the two halves share.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from vocabulary.errors import MeshgraftError

ANNOTATION = "meshgraft.io/redirect"
CREATED_BY = "linkerd.io/created-by"
WEBHOOK = "meshgraft/injector"
"""How our webhook begins the value of ``linkerd.io/created-by``. It writes the Redirect to each
pod whose rules the CNI plugin is to set, so that one without it needs none from there."""
VERSION = 1
"""Raised when an old agent would misread a new value: it refuses versions it does not know."""

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
ListenPort = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Uid = Annotated[int, msgspec.Meta(ge=0, le=4294967294)]


class PortRange(msgspec.Struct, frozen=True, array_like=True, order=True):
    """An inclusive range of TCP ports; a single port has both ends equal."""

    lower: Port
    upper: Port

    def __post_init__(self) -> None:
        if self.lower > self.upper:
            raise ValueError(f"upper bound {self.upper} is below lower bound {self.lower}")

    def __str__(self) -> str:
        return str(self.lower) if self.lower == self.upper else f"{self.lower}-{self.upper}"


class Redirect(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """The traffic rules of one pod, after Linkerd's proxy-init.

    Inbound TCP goes to ``inbound_port`` and outbound TCP to ``outbound_port``, except for what the
    skips let through and for what the proxy itself (``proxy_uid``, ``proxy_gid``) sends.
    Port lists keep the order in which they were written, because the legacy backend's rules
    name them as Linkerd's do. ``proxy_uid`` 0 and ``proxy_gid`` None mean "no such rule".
    """

    version: int = VERSION
    inbound_port: ListenPort
    outbound_port: ListenPort
    proxy_uid: Uid = 0
    proxy_gid: Uid | None = None
    only_inbound_ports: tuple[PortRange, ...] = ()
    """Where not empty, only these inbound ports are redirected (``--ports-to-redirect``)."""
    skip_inbound_ports: tuple[PortRange, ...] = ()
    skip_outbound_ports: tuple[PortRange, ...] = ()
    skip_subnets: tuple[str, ...] = ()
    """CIDRs, normalised; matched against the *source* of inbound traffic, as Linkerd does."""
    skip_outbound_subnets: tuple[str, ...] = ()
    """CIDRs, normalised; matched against the destination of outbound traffic (ours)."""
    probe_ports: tuple[ListenPort, ...] = ()
    """Ports that the kubelet probes by connecting: redirected only while something listens there,
    so that the probe of a closed one fails, as it does without a proxy."""
    ipv6: bool = False
    """Whether IPv6 is redirected too. IPv4 always is."""

    def to_annotation(self) -> str:
        """The value of ``meshgraft.io/redirect``: compact JSON, the version always present."""
        fields: dict[str, Any] = {"version": self.version}
        fields.update(msgspec.to_builtins(self))
        return msgspec.json.encode(fields).decode()


_decoder = msgspec.json.Decoder(Redirect, strict=True)


class BadRedirect(MeshgraftError, ValueError):
    """The annotation ``meshgraft.io/redirect`` holds something that is not a Redirect."""


def parse_redirect(text: str) -> Redirect:
    """Decode the value of ``meshgraft.io/redirect``.

    Raises:
        BadRedirect: not JSON, a value out of bounds, or a version that this code does not know.
    """
    try:
        redirect = _decoder.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BadRedirect(f"{ANNOTATION}: {error}") from error
    if redirect.version != VERSION:
        raise BadRedirect(
            f"{ANNOTATION}: version {redirect.version} is not known here (expected {VERSION}); "
            "the injector is newer than this node's agent: upgrade the agent"
        )
    return redirect
