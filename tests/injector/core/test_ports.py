"""The ports of pods and services are read as Linkerd reads them."""

from __future__ import annotations

import pytest

from injector.core.model import Object
from injector.core.ports import default_opaque_ports, inbound_ports, resolve_opaque_ports
from injector.core.values import Values
from tests.injector.support import pod, recorded, settings


def _pod(*ports: Object, init: list[Object] | None = None, **container: Object) -> Object:
    one = {"name": "app", "image": "x", "ports": list(ports), **container}
    return pod(containers=[one], initContainers=init or [])


def _ports(*numbers: int) -> list[Object]:
    return [{"containerPort": number} for number in numbers]


def test_inbound_ports_are_sorted_as_text_and_once_each() -> None:
    init: list[Object] = [{"name": "i", "ports": _ports(9090, 80)}]
    assert inbound_ports(_pod(*_ports(80, 11211), init=init)) == "11211,80,9090"


def test_inbound_ports_count_udp_too() -> None:
    assert inbound_ports(_pod({"containerPort": 53, "protocol": "UDP"})) == "53"


def test_inbound_ports_count_numbers_of_http_readiness_and_liveness_probes_only() -> None:
    given = _pod(
        readinessProbe={"httpGet": {"port": 1}},
        livenessProbe={"httpGet": {"port": 2}},
        startupProbe={"httpGet": {"port": 3}},
    )
    other: Object = {"name": "b", "livenessProbe": {"tcpSocket": {"port": 4}}}
    named: Object = {"name": "c", "readinessProbe": {"httpGet": {"port": "http"}}}
    given["spec"]["containers"] += [other, named, {"name": "d", "livenessProbe": None}]
    assert inbound_ports(given) == "1,2"


def test_a_pod_without_ports_serves_none() -> None:
    assert inbound_ports(pod()) == ""


def test_a_pods_default_opaque_ports_keep_order_and_duplicates() -> None:
    init: list[Object] = [{"name": "i", "ports": _ports(6379)}]
    assert default_opaque_ports(_pod(*_ports(80, 3306, 25, 3306), init=init), Values()) == (
        "6379,3306,25,3306"
    )


def test_ranges_among_the_defaults_match_no_port_by_default() -> None:
    values = settings(proxy={"opaquePorts": "3000-4000, 25"})
    assert default_opaque_ports(_pod(*_ports(3306, 25)), values) == "25"


@pytest.mark.parametrize(
    ("ports", "opaque"),
    [
        ([{"port": 3306}], "3306"),
        ([{"port": 13306, "targetPort": 3306}], "13306"),
        ([{"port": 3306, "targetPort": 80}], ""),
        ([{"port": 5432, "targetPort": "pg"}], ""),
        ([{"port": 25}, {"port": 80}, {"port": 587}], "25,587"),
        ([], ""),
    ],
)
def test_a_services_opaque_ports_go_by_their_targets(ports: list[Object], opaque: str) -> None:
    service = {"kind": "Service", "spec": {"ports": ports}}
    assert default_opaque_ports(service, Values()) == opaque


def test_a_recorded_service_is_opaque_under_both_its_ports() -> None:
    service, _, _ = recorded("service-legacy-mysql")
    assert default_opaque_ports(service, Values()) == "3306,13306"


def test_a_service_without_a_spec_has_no_ports() -> None:
    assert default_opaque_ports({"kind": "Service"}, Values()) == ""


def test_names_of_container_ports_become_numbers_and_ranges_stay() -> None:
    given = _pod({"containerPort": 3306, "name": "mysql"})
    assert resolve_opaque_ports("25,6000-6010,mysql,", given) == ("25,6000-6010,3306", ())


def test_an_unknown_name_is_left_out_with_a_warning() -> None:
    text, warnings = resolve_opaque_ports("pg,25,?", _pod({"containerPort": 1, "name": "x"}))
    assert text == "25"
    assert len(warnings) == 2
    assert all("left out" in warning for warning in warnings)
    assert any("'pg'" in warning and "name" in warning for warning in warnings)


def test_no_opaque_ports_at_all() -> None:
    assert resolve_opaque_ports("", pod()) == ("", ())


def test_a_hundred_thousand_unknown_names_make_one_short_warning() -> None:
    text, (excess, warning) = resolve_opaque_ports(
        "25," + "a," * 100_000, _pod({"containerPort": 1})
    )
    assert "99001 items left out: at most 1000 count" in excess
    assert text == "25"
    assert "and 994 more left out" in warning
    assert len(warning) < 256
