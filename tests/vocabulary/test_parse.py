"""Annotation values are read by Go's and Kubernetes' rules, or refused with what is expected."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vocabulary.annotations import parse
from vocabulary.annotations.parse import BadItems, BadValue, Duration, Quantity
from vocabulary.annotations.redirect import PortRange

MS = 10**6
SECOND = 10**9


@pytest.mark.parametrize("text", ["1", "t", "T", "TRUE", "true", "True"])
def test_bool_takes_gos_spellings_of_true(text: str) -> None:
    assert parse.parse_bool(text) is True


@pytest.mark.parametrize("text", ["0", "f", "F", "FALSE", "false", "False"])
def test_bool_takes_gos_spellings_of_false(text: str) -> None:
    assert parse.parse_bool(text) is False


@pytest.mark.parametrize("text", ["", "yes", "on", "tRUE", " true", "enabled", "2"])
def test_bool_refuses_the_rest(text: str) -> None:
    with pytest.raises(BadValue, match="boolean"):
        parse.parse_bool(text)


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0", 0),
        ("+0", 0),
        ("0s", 0),
        ("1ns", 1),
        ("1us", 1000),
        ("1µs", 1000),
        ("1μs", 1000),
        ("500ms", 500 * MS),
        ("6s5ms", 6005 * MS),
        ("1h15m30.918s", 4530918 * MS),
        (".5s", 500 * MS),
        ("1.s", SECOND),
        ("0.000000001s", 1),
        ("2562047h", 2562047 * 3600 * SECOND),
    ],
)
def test_duration_is_exact(text: str, nanoseconds: int) -> None:
    assert parse.parse_duration(text) == Duration(nanoseconds)


@pytest.mark.parametrize(
    "text",
    ["", "1", "-1s", "s", ".s", "1 s", "1d", "1s 1ms", "1S", "2562048h", "9" * 80 + "s", "١s", "+"],
)
def test_duration_refuses_what_go_refuses_and_negative_ones(text: str) -> None:
    with pytest.raises(BadValue, match="duration"):
        parse.parse_duration(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [("5s", "5s"), ("90s", "90s"), ("1m30s", "90s"), ("500ms", "500ms"), ("1.5s", "1500ms"),
     ("100us", "1ms"), ("0s", "0s")],
)  # fmt: skip
def test_a_short_duration_never_becomes_none_at_all(text: str, shown: str) -> None:
    assert parse.parse_proxy_duration(text) == shown


def test_milliseconds_are_rounded_up() -> None:
    assert parse.parse_milliseconds("6s5ms") == "6005ms"
    assert parse.parse_milliseconds("1ns") == "1ms"


def test_whole_seconds_are_rounded_up() -> None:
    assert parse.parse_whole_seconds("2500ms") == 3


@given(st.integers(0, 10**6), st.integers(0, 59), st.integers(0, 59), st.integers(0, 999))
def test_duration_adds_up_its_parts(hours: int, minutes: int, seconds: int, millis: int) -> None:
    text = f"{hours}h{minutes}m{seconds}s{millis}ms"
    expected = ((hours * 60 + minutes) * 60 + seconds) * SECOND + millis * MS
    assert parse.parse_duration(text).nanoseconds == expected


@pytest.mark.parametrize(
    ("text", "nano"),
    [
        ("1", SECOND),
        ("0", 0),
        ("-0", 0),
        ("+1", SECOND),
        ("100m", 10**8),
        ("0.5", SECOND // 2),
        (".5", SECOND // 2),
        ("5.", 5 * SECOND),
        ("1n", 1),
        ("1u", 1000),
        ("0.0000000001", 1),
        ("1k", 10**12),
        ("1Ki", 1024 * SECOND),
        ("1.5Gi", 1024**3 * SECOND * 3 // 2),
        ("1E", 10**27),
        ("1Ei", 1024**6 * SECOND),
        ("1e3", 1000 * SECOND),
        ("1E3", 1000 * SECOND),
        ("1e-3", 10**6),
        ("12e+2", 1200 * SECOND),
    ],
)
def test_quantity_is_exact_and_rounds_up_below_a_billionth(text: str, nano: int) -> None:
    assert parse.parse_quantity(text) == Quantity(nano)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "lots",
        "-1",
        "1 ",
        "1KI",
        "1K",
        "1mi",
        "1Mi1",
        "1e",
        "1e3Mi",
        "1e999999999",
        "٣",
        "0x1",
    ],
)
def test_quantity_refuses_what_kubernetes_refuses_and_negative_ones(text: str) -> None:
    with pytest.raises(BadValue, match="quantity"):
        parse.parse_quantity(text)


@pytest.mark.parametrize(
    ("text", "cores"), [("0", 1), ("1m", 1), ("1", 1), ("1001m", 2), ("1500m", 2), ("2", 2)]
)
def test_cores_are_rounded_up_and_at_least_one(text: str, cores: int) -> None:
    assert parse.whole_cores(text) == cores


@given(st.integers(0, 10**12))
def test_millis_and_decimals_agree(millis: int) -> None:
    decimal = f"{millis // 1000}.{millis % 1000:03}"
    assert parse.parse_quantity(f"{millis}m") == parse.parse_quantity(decimal)


@pytest.mark.parametrize(("text", "value"), [("0.10", 0.1), (".5", 0.5), ("5e-1", 0.5)])
def test_fraction(text: str, value: float) -> None:
    assert parse.parse_fraction(text) == value


@pytest.mark.parametrize("text", ["0", "1", "1.0", "-0.1", "nan", "inf", "half", "", "1e-999"])
def test_fraction_excludes_its_bounds(text: str) -> None:
    with pytest.raises(BadValue, match="above 0 and below 1"):
        parse.parse_fraction(text)


@pytest.mark.parametrize(
    "text", ["0", "65536", "99999", "-1", "1_0", " 80", "80.0", "", "0x50", "٨"]
)
def test_int_names_its_bounds(text: str) -> None:
    with pytest.raises(BadValue, match="from 1 to 65535"):
        parse.parse_int(text, 1, 65535)


def test_int_takes_its_bounds_and_a_sign() -> None:
    assert [parse.parse_int(text, -1, 5) for text in ("-1", "5", "+5", "0")] == [-1, 5, 5, 0]


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        ("", []),
        ("80", [(80, 80)]),
        ("80,443", [(80, 80), (443, 443)]),
        (" 80 , 4000 - 5000 ,", [(80, 80), (4000, 5000)]),
        ("443,80", [(443, 443), (80, 80)]),
        ("0,65535", [(0, 0), (65535, 65535)]),
    ],
)
def test_ports_are_trimmed_and_keep_their_order(text: str, ports: list[tuple[int, int]]) -> None:
    assert parse.parse_port_list(text) == tuple(PortRange(*pair) for pair in ports)


def test_each_bad_port_is_named_and_the_good_ones_hold() -> None:
    with pytest.raises(BadItems, match="'http', '70000', '90-80', '', '-1'") as caught:
        parse.parse_port_list("80,http,70000,90-80,,-1,443")
    assert caught.value.good == (PortRange(80, 80), PortRange(443, 443))
    assert caught.value.bad == ("http", "70000", "90-80", "", "-1")


def test_port_text_is_normalised_in_the_error_too() -> None:
    assert parse.parse_port_text(" 80, 90-99,") == "80,90-99"
    with pytest.raises(BadItems) as caught:
        parse.parse_port_text("80, x, 443")
    assert caught.value.good == "80,443"


def test_opaque_ports_may_be_names_of_container_ports() -> None:
    assert parse.parse_opaque_port_text("3306,6000-6010,mysql,") == "3306,6000-6010,mysql"
    with pytest.raises(BadItems) as caught:
        parse.parse_opaque_port_text("mysql,My_SQL,a--b,-x,70000")
    assert caught.value.good == "mysql"


@given(st.lists(st.tuples(st.integers(0, 65535), st.integers(0, 65535))))
def test_ports_survive_writing_and_reading(pairs: list[tuple[int, int]]) -> None:
    ranges = tuple(PortRange(*sorted(pair)) for pair in pairs)
    assert parse.parse_port_list(",".join(map(str, ranges))) == ranges


def test_cidrs_are_normalised() -> None:
    assert parse.parse_cidr_text(" 10.1.2.3/8, FD00:0::1/8,") == "10.0.0.0/8,fd00::/8"


@pytest.mark.parametrize("item", ["10.0.0.0/33", "10.0.0.0", "10.0.0/8", "fd00::/129", "/8", "x"])
def test_a_bad_cidr_is_named_and_the_good_ones_hold(item: str) -> None:
    with pytest.raises(BadItems, match="CIDR") as caught:
        parse.parse_cidr_list(f"10.0.0.0/8,{item}")
    assert caught.value.good == ("10.0.0.0/8",)
    assert caught.value.bad == (item,)


@given(st.ip_addresses(), st.integers(0, 32))
def test_cidrs_keep_their_network(address: Any, bits: int) -> None:
    (found,) = parse.parse_cidr_list(f"{address}/{bits}")
    assert address in ipaddress.ip_network(found)


@pytest.mark.parametrize("text", ["proxy", "cr.l5d.io/linkerd/proxy", "localhost:5000/proxy"])
def test_image_names(text: str) -> None:
    assert parse.parse_image(text) == text


@pytest.mark.parametrize("text", ["", "proxy:v1", "a b", "proxy@sha256:00", "/x", "x\n"])
def test_image_with_a_tag_or_worse_is_refused(text: str) -> None:
    with pytest.raises(BadValue, match="image name"):
        parse.parse_image(text)


@pytest.mark.parametrize("text", [".v1", "a b", "v1:2", "x" * 129])
def test_tag_is_refused(text: str) -> None:
    with pytest.raises(BadValue, match="tag"):
        parse.parse_tag(text)


def test_empty_tag_stands_for_the_installed_version() -> None:
    assert parse.parse_tag("") == ""


def test_enumeration_lists_its_choices() -> None:
    read = parse.one_of({"enabled": True, "disabled": False})
    assert read("enabled") is True
    with pytest.raises(BadValue, match='one of "enabled", "disabled"'):
        read("yes")


PARSERS: list[Callable[[str], Any]] = [
    parse.parse_bool, parse.parse_duration, parse.parse_quantity, parse.parse_fraction,
    parse.parse_port_list, parse.parse_opaque_port_text, parse.parse_cidr_list,
    parse.parse_image, parse.parse_tag, parse.int_between(0, 9),
]  # fmt: skip


@pytest.mark.parametrize("parser", PARSERS)
@given(st.text(max_size=80))
def test_no_text_makes_a_parser_fail_otherwise(parser: Callable[[str], Any], text: str) -> None:
    # Any other exception fails the test.
    with contextlib.suppress(BadValue):
        parser(text)
