"""Parsers for annotation values: the text that a user wrote to a value, or what was expected there.

The rules are those of Go and Kubernetes, because users write for Linkerd: ``strconv.ParseBool``,
``time.ParseDuration``, ``resource.ParseQuantity``. Nothing here knows which annotation it reads;
`vocabulary.annotations.table` puts a parser to each key.
"""

from __future__ import annotations

import ipaddress
import math
import re
import socket
from collections.abc import Callable, Mapping
from functools import lru_cache, wraps
from typing import Any, TypeVar

import msgspec

from vocabulary.annotations.redirect import PortRange
from vocabulary.errors import MeshgraftError

T = TypeVar("T")
MAX_PORT = 65535
_MAX_INT64 = 2**63 - 1
_LONGEST_TEXT = 64
_KEPT_TEXT = 256
"""No number, duration or quantity that means something is longer; keeps the arithmetic bounded."""
_MOST_SHOWN = 10
"""Bad items of a list that are named."""
MOST_ITEMS = 1000
"""Items of a list that count. More of them would not fit into a container's argument (128 KiB), nor
be set as rules, and reading them would hold up all other pods."""
_LONGEST_ITEM = 64
"""Characters; no port, range, port name or CIDR is longer."""


class BadValue(MeshgraftError, ValueError):
    """A text does not hold what is expected; the message says what that is, to be put behind
    "expected"."""


class BadItems(BadValue):
    """Some items of a list are bad. ``good`` is the list's value without them."""

    def __init__(self, expected: str, bad: tuple[str, ...], good: Any, excess: int = 0) -> None:
        """``excess`` items beyond `MOST_ITEMS` were not looked at."""
        shown = ", ".join(repr(shortened(item)) for item in bad[:_MOST_SHOWN])
        if len(bad) > _MOST_SHOWN:
            shown += f" and {len(bad) - _MOST_SHOWN} more"
        parts = [expected]
        if bad:
            parts.append(f"not usable: {shown}")
        if excess:
            parts.append(f"at most {MOST_ITEMS} items: {excess} more left out")
        super().__init__("; ".join(parts))
        self.bad = bad
        self.good = good
        self.excess = excess


def shortened(text: str) -> str:
    """A text that somebody wrote, cut to what a message may repeat."""
    return text if len(text) <= _LONGEST_ITEM else text[:_LONGEST_ITEM] + "…"


_BOOLS = dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), True) | dict.fromkeys(
    ("0", "f", "F", "FALSE", "false", "False"), False
)


def _kept(parse: Callable[[str], T]) -> Callable[[str], T]:
    """The same, but that short texts are parsed once: the pods of a template bring the same ones.
    What is raised is not kept."""
    short = lru_cache(maxsize=256)(parse)

    @wraps(parse)
    def parsed(text: str) -> T:
        return short(text) if len(text) <= _KEPT_TEXT else parse(text)

    return parsed


def parse_bool(text: str) -> bool:
    """Go's ``strconv.ParseBool``: 1, t, T, TRUE, true, True and their opposites, no others."""
    try:
        return _BOOLS[text]
    except KeyError:
        raise BadValue('a boolean, "true" or "false"') from None


_INT = re.compile(r"[+-]?[0-9]{1,19}", re.ASCII)


def parse_int(text: str, lower: int, upper: int) -> int:
    """Go's ``strconv.ParseInt`` in base 10, within inclusive bounds."""
    if _INT.fullmatch(text) and lower <= (number := int(text)) <= upper:
        return number
    raise BadValue(f"a whole number from {lower} to {upper}")


_FLOAT = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?", re.ASCII)


def parse_fraction(text: str) -> float:
    """A number above 0 and below 1, both exclusive."""
    if len(text) <= _LONGEST_TEXT and _FLOAT.fullmatch(text) and 0 < (number := float(text)) < 1:
        return number
    raise BadValue("a number above 0 and below 1")


# Longest first, so that "ms" is never read as "m".
_UNITS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "μs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_DURATION_PART = re.compile(r"([0-9]*)(?:\.([0-9]*))?(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_DURATION_EXPECTED = 'a duration that is not negative and has units, such as "10s" or "1m30s"'


class Duration(msgspec.Struct, frozen=True, order=True):
    """A length of time, exact, in nanoseconds."""

    nanoseconds: int

    @property
    def milliseconds(self) -> int:
        """Whole milliseconds, rounded up: a short time-out must not become none at all."""
        return -(-self.nanoseconds // 10**6)

    @property
    def seconds(self) -> int:
        """Whole seconds, rounded up."""
        return -(-self.nanoseconds // 10**9)

    def to_proxy(self) -> str:
        """In the coarsest unit of ``s`` and ``ms`` that loses nothing above a millisecond."""
        if self.nanoseconds % 10**9 == 0:
            return f"{self.seconds}s"
        return f"{self.milliseconds}ms"


@_kept
def parse_duration(text: str) -> Duration:
    """Go's ``time.ParseDuration`` ("1h15m30.918s"), but without negative durations."""
    body = text[1:] if text.startswith("+") else text
    if body == "0":
        return Duration(0)
    if not body or len(body) > _LONGEST_TEXT:
        raise BadValue(_DURATION_EXPECTED)
    total = position = 0
    while position < len(body):
        part = _DURATION_PART.match(body, position)
        if part is None or not (part[1] or part[2]):
            raise BadValue(_DURATION_EXPECTED)
        unit, fraction = _UNITS[part[3]], part[2] or ""
        total += int(part[1] or 0) * unit + int(fraction or 0) * unit // 10 ** len(fraction)
        position = part.end()
    if total > _MAX_INT64:
        raise BadValue(_DURATION_EXPECTED)
    return Duration(total)


_HOST_PORT = re.compile(
    r"([A-Za-z0-9]([-A-Za-z0-9.]{0,252}[A-Za-z0-9.])?|\[[0-9A-Fa-f:.]+\]):(?P<port>[0-9]{1,5})"
)


def parse_host_port(text: str) -> str:
    """``HOST:PORT``, kept as written; an IPv6 address stands in brackets."""
    match = _HOST_PORT.fullmatch(text)
    if match is None or not 0 < int(match["port"]) <= MAX_PORT:
        raise BadValue("HOST:PORT, such as collector.tracing.svc.cluster.local:4317")
    return text


def parse_milliseconds(text: str) -> str:
    """A duration as the proxy takes it, in milliseconds: ``6s5ms`` gives ``6005ms``."""
    return f"{parse_duration(text).milliseconds}ms"


def parse_connect_timeout(text: str) -> str:
    """Like `parse_milliseconds`, but above 0: with no time at all, no connection is ever made,
    and Envoy does not even start."""
    if not parse_duration(text).nanoseconds:
        raise BadValue('a duration above 0 that has units, such as "500ms" or "10s"')
    return parse_milliseconds(text)


def parse_proxy_duration(text: str) -> str:
    """A duration as the proxy takes it, in seconds, or in milliseconds where seconds would lose
    something (Linkerd truncates 500ms to 0s)."""
    return parse_duration(text).to_proxy()


def parse_whole_seconds(text: str) -> int:
    """A duration in seconds, rounded up."""
    return parse_duration(text).seconds


_SUFFIXES = {
    "n": (1, 0),
    "u": (10**3, 0),
    "m": (10**6, 0),
    "": (10**9, 0),
    "k": (10**12, 0),
    "M": (10**15, 0),
    "G": (10**18, 0),
    "T": (10**21, 0),
    "P": (10**24, 0),
    "E": (10**27, 0),
} | {unit + "i": (10**9, 10 * power) for power, unit in enumerate("KMGTPE", start=1)}
_QUANTITY = re.compile(
    r"(?P<sign>[+-]?)(?P<whole>[0-9]*)(?:\.(?P<fraction>[0-9]*))?"
    r"(?:[eE](?P<exponent>[+-]?[0-9]{1,2})|(?P<suffix>[numkMGTPE]?|[KMGTPE]i))",
    re.ASCII,
)
_QUANTITY_EXPECTED = 'a quantity that is not negative, such as "100m", "0.5" or "64Mi"'


class Quantity(msgspec.Struct, frozen=True, order=True):
    """An amount of a resource, exact, in billionths, as Kubernetes keeps it."""

    nano: int

    @property
    def whole(self) -> int:
        """Rounded up to whole units: 1500m of CPU need two cores."""
        return -(-self.nano // 10**9)


def parse_quantity(text: str) -> Quantity:
    """Kubernetes' ``resource.ParseQuantity``, but without negative amounts.

    Finer than a billionth is rounded up, as there.
    """
    match = _QUANTITY.fullmatch(text) if len(text) <= _LONGEST_TEXT else None
    if match is None or not (match["whole"] or match["fraction"]):
        raise BadValue(_QUANTITY_EXPECTED)
    fraction = match["fraction"] or ""
    digits = int((match["whole"] or "0") + fraction)
    if match["sign"] == "-" and digits:
        raise BadValue(_QUANTITY_EXPECTED)
    scale, shift = _SUFFIXES[match["suffix"] or ""]
    exponent = int(match["exponent"] or 0) - len(fraction)
    amount = digits * scale << shift
    return Quantity(amount * 10**exponent if exponent >= 0 else -(-amount // 10**-exponent))


def parse_resource(text: str) -> str:
    """A quantity, kept as it was written: it goes into ``resources`` verbatim."""
    parse_quantity(text)
    return text


_PORTS_EXPECTED = "a comma-separated list of ports (80) and port ranges (4000-5000)"
_PORT_NAME = re.compile(r"(?=.*[a-z])(?!.*--)[a-z0-9](?:[a-z0-9-]{0,13}[a-z0-9])?", re.ASCII)
_RANGE = re.compile(r"([0-9]{1,5})(?:\s*-\s*([0-9]{1,5}))?", re.ASCII)


def _items(text: str) -> tuple[list[str], int]:
    """The first `MOST_ITEMS` items of a comma-separated list, trimmed, and how many follow; a
    trailing comma is none."""
    items = text.split(",", MOST_ITEMS)
    rest = items.pop() if len(items) > MOST_ITEMS else ""
    items = [item.strip() for item in items]
    if items[-1] == "":
        items.pop()
    return items, rest.rstrip(", ").count(",") + 1 if rest.strip(", ") else 0


def _port_range(item: str) -> PortRange | None:
    match = _RANGE.fullmatch(item)
    if match is None:
        return None
    lower, upper = int(match[1]), int(match[2] or match[1])
    return PortRange(lower, upper) if lower <= upper <= MAX_PORT else None


def _collect(text: str, parse: Callable[[str], T | None], expected: str) -> tuple[T, ...]:
    good: list[T] = []
    bad: list[str] = []
    items, excess = _items(text)
    for item in items:
        value = parse(item) if len(item) <= _LONGEST_ITEM else None
        if value is None:
            bad.append(item)
        else:
            good.append(value)
    if bad or excess:
        raise BadItems(expected, tuple(bad), tuple(good), excess)
    return tuple(good)


@_kept
def parse_port_list(text: str) -> tuple[PortRange, ...]:
    """``80,4000-5000``; spaces and a trailing comma are allowed, the order is kept.

    Raises:
        BadItems: names each bad item, and holds the good ones.
    """
    return _collect(text, _port_range, _PORTS_EXPECTED)


def is_port_name(text: str) -> bool:
    """Whether a text can be the name of a container port (Kubernetes' IANA_SVC_NAME)."""
    return _PORT_NAME.fullmatch(text) is not None


def _as_text(parse: Callable[[str], tuple[Any, ...]], text: str) -> str:
    """Normalise a list: parsed and joined again, the good items in the error too."""
    try:
        return ",".join(map(str, parse(text)))
    except BadItems as error:
        error.good = ",".join(map(str, error.good))
        raise


def parse_port_text(text: str) -> str:
    """Like `parse_port_list`, as normalised text."""
    return _as_text(parse_port_list, text)


def _port_or_name(item: str) -> str | None:
    if (ports := _port_range(item)) is not None:
        return str(ports)
    return item if is_port_name(item) else None


@_kept
def parse_opaque_port_text(text: str) -> str:
    """Like `parse_port_text`, but names of container ports may stand among the items."""
    expected = _PORTS_EXPECTED + ", or names of container ports"
    return _as_text(lambda text: _collect(text, _port_or_name, expected), text)


_PREFIX = re.compile(r"[0-9]{1,3}", re.ASCII)


def _cidr(item: str) -> str | None:
    """By the C library: `ipaddress` takes five times as long, and a list may hold a thousand."""
    host, _, prefix = item.partition("/")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bits = 128 if family == socket.AF_INET6 else 32
    if not _PREFIX.fullmatch(prefix) or (length := int(prefix)) > bits:
        return None
    try:
        packed = socket.inet_pton(family, host)
    except (OSError, ValueError):
        return None
    free = bits - length
    number = int.from_bytes(packed) >> free << free
    written = socket.inet_ntop(family, number.to_bytes(bits // 8))
    if family == socket.AF_INET6 and "." in written:
        written = str(ipaddress.IPv6Address(number))  # as all other tools here write it
    return f"{written}/{length}"


@_kept
def parse_cidr_list(text: str) -> tuple[str, ...]:
    """CIDRs, IPv4 or IPv6, normalised: host bits are cleared, as Go's ``net.ParseCIDR`` does.

    Raises:
        BadItems: names each bad item, and holds the good ones.
    """
    return _collect(text, _cidr, "a comma-separated list of CIDRs, such as 10.0.0.0/8")


def parse_cidr_text(text: str) -> str:
    """Like `parse_cidr_list`, as normalised text."""
    return _as_text(parse_cidr_list, text)


_IMAGE = re.compile(r"[a-z0-9][a-zA-Z0-9._:/-]*", re.ASCII)
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127}", re.ASCII)


def parse_image(text: str) -> str:
    """The name of a container image, without tag."""
    if _IMAGE.fullmatch(text) and ":" not in text.rpartition("/")[2]:
        return text
    raise BadValue('an image name without a tag, such as "registry.example.com/proxy"')


def parse_tag(text: str) -> str:
    """The tag of a container image; empty stands for the installed version."""
    if text and not _TAG.fullmatch(text):
        raise BadValue('an image tag, such as "v1.2.3"')
    return text


def parse_text(text: str) -> str:
    """Any text: the proxy itself judges it."""
    return text


def one_of(choices: Mapping[str, T]) -> Callable[[str], T]:
    """A parser for an enumeration: each allowed text stands for a value."""
    expected = "one of " + ", ".join(f'"{choice}"' for choice in choices)

    def parse(text: str) -> T:
        if text not in choices:
            raise BadValue(expected)
        return choices[text]

    return parse


def int_between(lower: int, upper: int) -> Callable[[str], int]:
    """A parser for whole numbers within inclusive bounds."""
    return lambda text: parse_int(text, lower, upper)


def whole_cores(text: str) -> int:
    """CPU cores for an amount of CPU, rounded up, at least one."""
    return max(1, math.ceil(parse_quantity(text).whole))
