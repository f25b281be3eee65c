"""Proves, before the pod's own containers start, that its outbound traffic is redirected.

It listens where the proxy will, connects to an address far away, and must read back its own
token: it does so only where the pod's rules lead the connection to the proxy's port. It keeps
trying until its time is over, so that rules which come late, by repair, still let the pod start.
Each try is a new connection, because conntrack keeps what it decided about an old one.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import re
import select
import socket
import string
import time
from dataclasses import dataclass

EXIT_CODE = 95
"""Linkerd's exit code for "not validated"; its repair controller looks for it."""
TOKEN_LENGTH = 64
_ALPHABET = (string.ascii_letters + string.digits).encode()
_TRY = 1.0
"""Seconds for one connection; on the way to ourselves it takes none."""
_PAUSE = 0.1
_SILENCE = "no answer"
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class NotValidatedError(Exception):
    """Traffic is not redirected, or it cannot be told; the text is for an operator."""


class _TryError(Exception):
    """One try did not succeed; the text says what was seen."""


@dataclass(frozen=True, slots=True)
class Address:
    """An IP address and a TCP port."""

    host: str
    port: int

    @property
    def family(self) -> socket.AddressFamily:
        return socket.AF_INET6 if ":" in self.host else socket.AF_INET

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """``192.0.2.2:1404`` or ``[fd00::1]:20001``.

    Raises:
        ValueError: it is no such thing.
    """
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    bare = host[1:-1] if bracketed else host
    try:
        version = ipaddress.ip_address(bare).version
        number = int(port) if port.isascii() and port.isdecimal() else -1
        if not colon or bracketed != (version == 6) or not 0 <= number <= 65535:
            raise ValueError(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is not an address: expected IP:PORT, with brackets around IPv6"
        ) from None
    return Address(bare, number)


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


def validate(listen: Address, connect: Address, timeout: float) -> None:
    """Return once a connection to ``connect`` came out at ``listen``. ``timeout`` in seconds.

    Raises:
        NotValidatedError: it did not within the time-out, or nothing can listen there.
    """
    deadline = time.monotonic() + timeout
    token, seen = make_token(), _SILENCE
    with _listener(listen) as listener:
        while True:
            try:
                _try_once(listener, connect, token, min(deadline, time.monotonic() + _TRY))
                return
            except _TryError as error:
                # An answer of any kind tells more than silence, such as that of a last, short try.
                seen = seen if str(error) == _SILENCE else str(error)
            if deadline - time.monotonic() < 2 * _PAUSE:
                raise NotValidatedError(_advice(listen, connect, timeout, seen))
            time.sleep(_PAUSE)


def _advice(listen: Address, connect: Address, timeout: float, seen: str) -> str:
    return (
        f"this pod's outbound traffic is not redirected: no connection to {connect} came out at "
        f"{listen} within {timeout:g} s; what was seen there: {seen}. The CNI plugin did not set "
        "this pod's rules. Look at the linkerd-cni pod on this node (is it ready, what does it log "
        "about this pod?) and at the conflist in /etc/cni/net.d (is linkerd-cni in the chain?); "
        "deleting the pod starts it again"
    )


def _listener(address: Address) -> socket.socket:
    try:
        sock = socket.socket(address.family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
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
        errno.ENETUNREACH: "; the pod has no default route, so give --connect-addr an address "
        "that it has a route to",
        errno.ECONNREFUSED: " by that address itself",
    }
    return (text or "unknown error").lower() + hint.get(number or 0, "")
