"""What is read of Kubernetes' objects, and what it means for whoever connects."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mesh.model.values import Endpoint, EndpointSlice, Ref, Service, ServicePort
from mesh.sources.kubernetes import read_pod, read_service, read_slice
from vocabulary.annotations.redirect import PortRange

REDIRECT = '{"version":1,"inboundPort":4143,"outboundPort":4140,"skipInboundPorts":[[22,23]]}'


def encoded(metadata: dict[str, Any] | None = None, **fields: Any) -> bytes:
    given = {"name": "web", "namespace": "shop", "uid": "u1", **(metadata or {})}
    return json.dumps({"metadata": given, **fields}).encode()


@pytest.mark.parametrize(
    ("spec", "addresses", "ports"),
    [
        (
            {"clusterIP": "10.96.0.1", "ports": [{"port": 80, "name": "http"}]},
            ("10.96.0.1",),
            (ServicePort("http", 80),),
        ),
        (
            {
                "clusterIP": "10.96.0.1",
                "clusterIPs": ["10.96.0.1", "fd00::1"],
                "ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}],
            },
            ("10.96.0.1", "fd00::1"),
            (ServicePort("", 53),),
        ),
        ({"clusterIP": "10.96.0.1"}, ("10.96.0.1",), ()),
    ],
)
def test_a_service_is_its_addresses_and_tcp_ports(
    spec: dict[str, Any], addresses: tuple[str, ...], ports: tuple[ServicePort, ...]
) -> None:
    ref, found = read_service(encoded(spec=spec))
    assert ref == Ref("shop", "web")
    assert found == Service(ref, addresses, ports)


@pytest.mark.parametrize(
    "spec",
    [
        {"clusterIP": "None", "clusterIPs": ["None"], "ports": [{"port": 80}]},
        {"type": "ExternalName", "externalName": "example.test"},
        {"type": "ExternalName", "clusterIP": "10.96.0.1"},
        {},
    ],
)
def test_a_service_without_an_address_is_none_of_the_meshs(spec: dict[str, Any]) -> None:
    assert read_service(encoded(spec=spec)) == (Ref("shop", "web"), None)


@pytest.mark.parametrize(
    ("conditions", "ready", "serving"),
    [
        (None, True, True),
        ({}, True, True),
        ({"ready": None, "serving": None}, True, True),
        ({"ready": False, "serving": True, "terminating": True}, False, True),
        ({"ready": False}, False, False),
        ({"ready": True, "serving": True}, True, True),
    ],
)
def test_an_endpoints_conditions_mean_what_the_api_says(
    conditions: dict[str, Any] | None, ready: bool, serving: bool
) -> None:
    given = {
        "addresses": ["10.1.0.1", "10.1.0.2"],
        "conditions": conditions,
        "nodeName": "n1",
        "hints": {"forZones": [{"name": "a"}]},
    }
    ref, found = read_slice(
        encoded(
            {"name": "web-x1", "labels": {"kubernetes.io/service-name": "web"}},
            addressType="IPv4",
            ports=[{"name": "http", "port": 8080, "protocol": "TCP"}, {"port": None}],
            endpoints=[given],
        )
    )
    endpoint = Endpoint("10.1.0.1", ready, serving, "n1", frozenset("a"))
    assert found == EndpointSlice(ref, "web", (ServicePort("http", 8080),), (endpoint,))


@pytest.mark.parametrize(
    ("metadata", "more"),
    [
        ({}, {}),
        ({"labels": {"kubernetes.io/service-name": "web"}}, {"addressType": "FQDN"}),
    ],
)
def test_a_slice_that_no_connection_can_come_by_is_left_out(
    metadata: dict[str, Any], more: dict[str, Any]
) -> None:
    assert read_slice(encoded(metadata, **more))[1] is None


def pod(
    annotations: dict[str, str] | None = None,
    metadata: dict[str, Any] | None = None,
    spec: dict[str, Any] | None = None,
    status: dict[str, Any] | None = None,
) -> bytes:
    return encoded(
        {"annotations": annotations, **(metadata or {})},
        spec={
            "nodeName": "n1",
            "serviceAccountName": "web",
            "containers": [{"name": "app"}],
            "initContainers": [{"name": "envoy-proxy"}],
            **(spec or {}),
        },
        status={
            "phase": "Running",
            "podIPs": [{"ip": "10.1.0.1"}, {"ip": "fd00::1"}],
            **(status or {}),
        },
    )


MESHED = {"meshgraft.io/mesh": "enabled", "meshgraft.io/redirect": REDIRECT}


def test_a_pod_is_its_addresses_node_and_account() -> None:
    _, found = read_pod(pod(MESHED))
    assert found is not None
    assert (found.addresses, found.node) == (("10.1.0.1", "fd00::1"), "n1")
    assert (found.service_account, found.uid) == ("web", "u1")
    assert found.meshed
    assert found.past_the_proxy == (PortRange(22, 23),)
    assert found.has_identity_on(80)
    assert not found.has_identity_on(22)


@pytest.mark.parametrize(
    ("annotations", "spec"),
    [
        ({}, {}),
        ({"meshgraft.io/mesh": "enabled"}, {}),
        ({**MESHED, "meshgraft.io/redirect": "{}"}, {}),
        ({**MESHED, "meshgraft.io/mesh": "no"}, {}),
        (MESHED, {"initContainers": []}),
        (MESHED, {"initContainers": [{"name": "another"}]}),
    ],
)
def test_a_pod_is_meshed_where_it_says_so_and_holds_the_proxy(
    annotations: dict[str, str], spec: dict[str, Any]
) -> None:
    _, found = read_pod(pod(annotations, spec=spec))
    assert found is not None
    assert not found.meshed


@pytest.mark.parametrize(
    ("spec", "status"),
    [
        ({"hostNetwork": True}, {}),
        ({}, {"podIPs": []}),
        ({}, {"phase": "Succeeded"}),
        ({}, {"phase": "Failed"}),
    ],
)
def test_a_pod_without_a_network_of_its_own_is_left_out(
    spec: dict[str, Any], status: dict[str, Any]
) -> None:
    assert read_pod(pod(MESHED, spec=spec, status=status))[1] is None


@pytest.mark.parametrize(
    ("metadata", "owner"),
    [
        ({}, "pod/web"),
        (
            {
                "labels": {"pod-template-hash": "5d"},
                "ownerReferences": [{"kind": "ReplicaSet", "name": "web-5d", "controller": True}],
            },
            "deployment/web",
        ),
        (
            {"ownerReferences": [{"kind": "ReplicaSet", "name": "web", "controller": True}]},
            "replicaset/web",
        ),
        (
            {"ownerReferences": [{"kind": "StatefulSet", "name": "db", "controller": True}]},
            "statefulset/db",
        ),
    ],
)
def test_an_owner_is_what_people_know_the_pod_by(metadata: dict[str, Any], owner: str) -> None:
    _, found = read_pod(pod(MESHED, metadata))
    assert found is not None
    assert found.owner == owner
