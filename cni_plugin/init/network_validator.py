"""Proves, before the pod's own containers start, that its traffic is redirected to the proxy.

Outbound, by packets: it listens where the proxy will, connects to an address far away, and must
read back its own token, in each address family that the pod has. That works only where the pod's
rules lead the connection to the proxy's port. Inbound, by the word of the node's agent, which
reads the rules (`inbound_word` says why a process of the pod cannot prove them). It keeps
trying until its time is over, so that rules which come late, by repair, still let the pod start.
Each try is a new connection, because conntrack keeps what it decided about an old one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import socket
import string
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from cni_plugin.dataplane.addresses import Network, network
from cni_plugin.dataplane.errors import NetnsError
from cni_plugin.dataplane.inbound_word import Mailbox
from cni_plugin.init.validator_targets import Address, Target, Version, Wanted, parse_address, plan
from vocabulary.errors import MeshgraftError

__all__ = ["Address", "NotValidatedError", "Wanted", "parse_address", "parse_timeout", "validate"]

EXIT_CODE = 95
"""Linkerd's exit code for "not validated"; its repair controller looks for it."""
TOKEN_LENGTH = 64
_ALPHABET = (string.ascii_letters + string.digits).encode()
_TRY = 1.0
"""Seconds for one connection; on the way to ourselves it takes none."""
_PAUSE = 0.1
_SILENCE = "no answer"
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class NotValidatedError(MeshgraftError):
    """Traffic is not redirected, or it cannot be told; the text is for an operator."""


class _TryError(Exception):
    """One try did not succeed; the text says what was seen."""


def parse_timeout(text: str) -> float:
    """Seconds for ``10s``, ``500ms``, ``1m``, ``1h``, ``1d`` or ``0``.

    Raises:
        ValueError: another form, such as a number without a unit.
    """
    match = re.fullmatch(r"([0-9]{1,12})(ms|s|m|h|d)", text.strip(), re.ASCII)
    if match is not None:
        return int(match[1]) * _UNITS[match[2]]
    if text.strip() == "0":
        return 0.0
    raise ValueError(
        f"{text!r} is not a time-out: expected a whole number with a unit of ms, s, m, h or d"
    )


def make_token() -> bytes:
    """A fresh token: 63 letters and digits, and a newline."""
    letters = bytes(_ALPHABET[byte % len(_ALPHABET)] for byte in os.urandom(TOKEN_LENGTH - 1))
    return letters + b"\n"


@dataclass(frozen=True, slots=True)
class Inbound:
    """How much the agent's word about inbound traffic counts."""

    wait: float = 0.0
    """Seconds to wait for it once outbound is proven; then its absence is only noted."""
    required: bool = False
    """Its absence is a failure."""


def validate(
    wanted: Wanted,
    timeout: float,
    inbound: Inbound | None = None,
    look: Callable[[], Network] = network,
) -> tuple[str, ...]:
    """Return once traffic is redirected, with notes about what was not tried.

    ``timeout`` is in seconds, for everything; ``look`` reads the pod's addresses and routes.

    Raises:
        NotValidatedError: it is not within the time-out, or nothing can listen there.
    """
    deadline = time.monotonic() + timeout
    with contextlib.ExitStack() as stack:
        mailbox = Mailbox()
        stack.callback(mailbox.close)
        outbound = _Outbound(stack, wanted, look)
        while not outbound.is_proven(deadline):
            if deadline - time.monotonic() < 2 * _PAUSE:
                raise NotValidatedError(outbound.advice(timeout))
            time.sleep(_PAUSE)
        return (*outbound.notes, *_inbound(mailbox, inbound or Inbound(), deadline, timeout))


def _inbound(
    mailbox: Mailbox, inbound: Inbound, deadline: float, timeout: float
) -> tuple[str, ...]:
    patience = deadline if inbound.required else min(deadline, time.monotonic() + inbound.wait)
    while not mailbox.said_right():
        wrong = mailbox.said_wrong()
        if time.monotonic() >= (deadline if wrong else patience):
            if wrong or inbound.required:
                raise NotValidatedError(_inbound_advice(wrong, timeout))
            return (_INBOUND_UNTOLD,) if inbound.wait else ()
        time.sleep(_PAUSE / 4)
    return ()


_INBOUND_UNTOLD = (
    "inbound: this node's linkerd-cni agent did not say whether the rules are right; it sets those "
    "of both directions together, and outbound was seen to work"
)
_LOOK_AT = (
    "Look at the linkerd-cni pod on this node (is it ready, what does it log about this pod?) and "
    "at the conflist in /etc/cni/net.d (is linkerd-cni in the chain?); deleting the pod starts it "
    "again"
)


def _inbound_advice(wrong: str, timeout: float) -> str:
    if wrong:
        return (
            "this pod's inbound traffic is not redirected as it should be, though its outbound "
            f"traffic is: {wrong}, says this node's linkerd-cni agent. Something else changed "
            f"this pod's rules, or another plugin set them. {_LOOK_AT}"
        )
    return (
        "it is not known whether this pod's inbound traffic is redirected: this node's linkerd-cni "
        f"agent did not say so within {timeout:g} s. {_LOOK_AT}"
    )


@dataclass(slots=True)
class _Outbound:
    """The families that are still to be proven, and what was seen so far."""

    stack: contextlib.ExitStack
    wanted: Wanted
    look: Callable[[], Network]
    token: bytes = field(default_factory=make_token)
    proven: set[Version] = field(default_factory=set)
    notes: tuple[str, ...] = ()
    _listeners: dict[Address, socket.socket] = field(default_factory=dict)
    _failed: dict[Version, tuple[Target, str]] = field(default_factory=dict)
    """The families that are not redirected, with what was seen of each."""
    _tried: int = 0
    _problem: str = ""

    def is_proven(self, deadline: float) -> bool:
        """Look at the pod's network as it is now, and try each family that is not proven yet."""
        try:
            found = plan(self.wanted, self.look())
        except NetnsError as error:
            raise NotValidatedError(f"cannot tell which addresses this pod has: {error}") from error
        self.notes, self._problem = found.notes, found.problem
        for target in found.targets:
            if target.version not in self.proven:
                self._try(target, deadline)
        self._tried += 1
        return not found.problem and all(each.version in self.proven for each in found.targets)

    def _try(self, target: Target, deadline: float) -> None:
        listener = self._listeners.get(target.listen)
        if listener is None:
            listener = self.stack.enter_context(_listener(target.listen))
            self._listeners[target.listen] = listener
        to = target.destinations[self._tried % len(target.destinations)]
        try:
            _try_once(listener, to, self.token, min(deadline, time.monotonic() + _TRY))
        except _TryError as error:
            # An answer of any kind tells more than silence, such as that of a last, short try.
            if str(error) != _SILENCE or target.version not in self._failed:
                self._failed[target.version] = target, f"{error} (from {to})"
        else:
            self.proven.add(target.version)
            self._failed.pop(target.version, None)

    def advice(self, timeout: float) -> str:
        """What to tell the operator now that time is over."""
        if self._problem or not self._failed:
            return self._problem or "there was no time to try anything"
        families = " and ".join(f"IPv{version}" for version in sorted(self._failed))
        others = "".join(f" (IPv{version} is)" for version in sorted(self.proven))
        found = "; ".join(_seen(*each) for each in self._failed.values())
        return (
            f"this pod's outbound {families} traffic is not redirected{others}: within "
            f"{timeout:g} s {found}. The CNI plugin did not set this pod's rules. {_LOOK_AT}"
        )


def _seen(target: Target, what: str) -> str:
    return (
        f"no connection to {', '.join(map(str, target.destinations))} came out at "
        f"{target.listen}, and what was seen there is: {what}"
    )


def _listener(address: Address) -> socket.socket:
    try:
        sock = socket.socket(address.family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if address.version == 6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((address.host, address.port))
            sock.listen()
            sock.setblocking(False)
        except OSError:
            sock.close()
            raise
    except OSError as error:
        raise NotValidatedError(
            f"cannot listen on {address}: {_words(error.errno, error.strerror)}"
        ) from error
    return sock


def _try_once(listener: socket.socket, connect: Address, token: bytes, deadline: float) -> None:
    """Connect once, serve the token to whatever arrives, and read it back."""
    with _connecting(connect) as client:
        received = b""
        while len(received) < TOKEN_LENGTH:
            if not _served(listener, client, token, deadline):
                continue
            received += _read(client)
        if received != token:
            raise _TryError("something else answered there, with other words than ours")


def _connecting(address: Address) -> socket.socket:
    """A socket that has begun to connect."""
    try:
        client = socket.socket(address.family, socket.SOCK_STREAM)
        try:
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect((address.host, address.port))
        except OSError:
            client.close()
            raise
    except OSError as error:
        raise _TryError(_words(error.errno, error.strerror)) from error
    return client


def _served(listener: socket.socket, client: socket.socket, token: bytes, deadline: float) -> bool:
    """Wait for something to happen; whether the client has something to read."""
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    poll.register(client, select.POLLIN)
    milliseconds = max(0, int((deadline - time.monotonic()) * 1000))
    events = dict(poll.poll(milliseconds))
    if not events and time.monotonic() >= deadline:
        raise _TryError(_SILENCE)
    if listener.fileno() in events:
        _hand_out(listener, token)
    return client.fileno() in events


def _hand_out(listener: socket.socket, token: bytes) -> None:
    try:
        connection, _ = listener.accept()
    except OSError:
        return  # it was gone before we took it
    with connection, contextlib.suppress(ConnectionError):
        connection.sendall(token)


def _read(client: socket.socket) -> bytes:
    try:
        data = client.recv(TOKEN_LENGTH)
    except OSError as error:
        raise _TryError(_words(error.errno, error.strerror)) from error
    if not data:
        raise _TryError("something else answered there, and hung up")
    return data


def _words(number: int | None, text: str | None) -> str:
    """The system's words for an error, and what it means here."""
    hint = {
        errno.EADDRINUSE: "; if another container of the pod uses that port, give the proxy "
        "another one",
        errno.EAFNOSUPPORT: "; the node has no IPv6: switch it off for the mesh",
        errno.ENETUNREACH: "; the pod has no route to it",
        errno.ECONNREFUSED: " by that address itself",
    }
    return (text or "unknown error").lower() + hint.get(number or 0, "")
