"""Envoy's bootstrap: what differs between pods, and that Envoy itself takes it."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from injector.profiles.bootstrap import EnvoyConfig, bootstrap
from meshgraft.lab.envoy import envoy_binary
from vocabulary.annotations import PortRange


def config(**fields: Any) -> EnvoyConfig:
    """A configuration with the default ports."""
    return EnvoyConfig(
        inbound_port=4143, outbound_port=4140, admin_port=4191, control_port=4190, **fields
    )


CONFIGS = {
    "defaults": config(),
    "ipv6": config(ipv6=True),
    "one opaque port": config(inbound_opaque_ports=(PortRange(25, 25),)),
    "opaque ranges to the last port": config(
        outbound_opaque_ports=(PortRange(25, 25), PortRange(65000, 65535))
    ),
    "apache log": config(access_log="apache"),
    "json log": config(access_log="json"),
    "tracing": config(
        trace_collector=("collector.tracing", 4317), trace_service="web", trace_sampling=0.5
    ),
    "shutdown": config(shutdown_endpoint=True),
    "memory limit": config(memory_limit=250 << 20),
    "no memory at all": config(memory_limit=1),
    "all the memory there is": config(memory_limit=(1 << 63) - 1),
    "short time-outs": config(inbound_connect_timeout=0.000001, outbound_detect_timeout=0),
}


@pytest.mark.parametrize("given", CONFIGS.values(), ids=CONFIGS)
def test_envoy_accepts_it(given: EnvoyConfig) -> None:
    done = subprocess.run(
        [
            *(str(envoy_binary()), "--mode", "validate", "--disable-hot-restart"),
            *("--config-yaml", json.dumps(bootstrap(given))),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def listener(name: str, given: EnvoyConfig) -> dict[str, Any]:
    found: dict[str, Any] = next(
        each for each in bootstrap(given)["static_resources"]["listeners"] if each["name"] == name
    )
    return found


def addresses(name: str, given: EnvoyConfig) -> list[tuple[str, int]]:
    each = listener(name, given)
    all_ = [each["address"], *(extra["address"] for extra in each.get("additional_addresses", []))]
    return [(a["socket_address"]["address"], a["socket_address"]["port_value"]) for a in all_]


def test_connections_and_heap_follow_the_memory_limit() -> None:
    manager = bootstrap(config(memory_limit=250 << 20))["overload_manager"]
    heap, connections = (each["typed_config"] for each in manager["resource_monitors"])
    assert heap["max_heap_size_bytes"] == 200 << 20
    assert connections["max_active_downstream_connections"] == 8000
    (only,) = bootstrap(config())["overload_manager"]["resource_monitors"]
    assert only["typed_config"]["max_active_downstream_connections"] == 50_000


def test_without_ipv6_nothing_listens_on_ipv6() -> None:
    assert addresses("inbound", CONFIGS["defaults"]) == [("0.0.0.0", 4143)]
    assert addresses("outbound", CONFIGS["defaults"]) == [("127.0.0.1", 4140)]
    assert addresses("admin", CONFIGS["defaults"]) == [("0.0.0.0", 4191)]


def test_with_ipv6_each_listener_has_both_families() -> None:
    assert addresses("inbound", CONFIGS["ipv6"]) == [("0.0.0.0", 4143), ("::", 4143)]
    assert addresses("outbound", CONFIGS["ipv6"]) == [("127.0.0.1", 4140), ("::1", 4140)]
    assert addresses("admin", CONFIGS["ipv6"]) == [("0.0.0.0", 4191), ("::", 4191)]


def test_envoys_own_admin_interface_is_on_loopback_only() -> None:
    for given in CONFIGS.values():
        address = bootstrap(given)["admin"]["address"]["socket_address"]
        assert address == {"address": "127.0.0.1", "port_value": 4190}


def test_an_opaque_port_is_not_inspected() -> None:
    inspector = listener("inbound", CONFIGS["one opaque port"])["listener_filters"][1]
    assert inspector["filter_disabled"] == {"destination_port_range": {"start": 25, "end": 26}}


def test_a_range_reaches_its_last_port() -> None:
    inspector = listener("outbound", CONFIGS["opaque ranges to the last port"])
    rules = inspector["listener_filters"][1]["filter_disabled"]["or_match"]["rules"]
    assert rules[1] == {"destination_port_range": {"start": 65000, "end": 65536}}


def test_every_port_is_inspected_where_none_is_opaque() -> None:
    assert "filter_disabled" not in listener("inbound", CONFIGS["defaults"])["listener_filters"][1]


@pytest.mark.parametrize("name", ["inbound", "outbound"])
def test_a_connection_to_the_listener_itself_goes_nowhere(name: str) -> None:
    each = listener(name, CONFIGS["defaults"])
    port = each["address"]["socket_address"]["port_value"]
    (loop,) = [
        chain
        for chain in each["filter_chains"]
        if chain["filter_chain_match"].get("destination_port") == port
    ]
    assert loop["filters"][0]["typed_config"]["cluster"] == "blackhole"


def test_seconds_keep_what_is_below_a_second() -> None:
    clusters = {
        cluster["name"]: cluster
        for cluster in bootstrap(CONFIGS["short time-outs"])["static_resources"]["clusters"]
    }
    assert clusters["inbound"]["connect_timeout"] == "0.000001s"
    assert clusters["outbound"]["connect_timeout"] == "1s"


def test_a_thousand_ports_listed_one_by_one_fit_into_one_argument() -> None:
    """Linux takes 128 KiB for one argument."""
    ports = tuple(PortRange(port, port) for port in (25, *range(6000, 5000, -1), 5500))
    given = EnvoyConfig(
        inbound_port=4143,
        outbound_port=4140,
        admin_port=4191,
        control_port=4190,
        inbound_opaque_ports=ports,
    )
    inspector = listener("inbound", given)["listener_filters"][1]
    assert [
        (rule["destination_port_range"]["start"], rule["destination_port_range"]["end"])
        for rule in inspector["filter_disabled"]["or_match"]["rules"]
    ] == [(25, 26), (5001, 6001)]
