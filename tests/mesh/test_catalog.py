"""The catalog translates anew what a change concerns: it always says what a fresh one says."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from google.protobuf.json_format import MessageToDict
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mesh.control.catalog import Catalog
from mesh.model.values import Endpoint, EndpointSlice, Ref, Service, ServicePort, Workload
from mesh.model.world import Touched, World
from mesh.translate.types import CLUSTER, ENDPOINTS, ROUTES
from mesh.xds.messages import Key
from mesh.xds.view import View
from vocabulary.annotations.redirect import PortRange
from vocabulary.mesh import ALIASES

SERVICES = [Ref("shop", name) for name in "ab"]
ADDRESSES = ["10.96.0.1", "10.96.0.2"]
PODS = [f"10.1.0.{each}" for each in range(1, 5)]
NODES = ["n1", "n2"]
PORTS = (ServicePort("http", 80), ServicePort("grpc", 90))
KEYS = [
    *(Key(CLUSTER, f"{tcp}{at}:80") for tcp in ("", "tcp/") for at in (*ADDRESSES, *PODS)),
    *(
        Key(ENDPOINTS, f"{ref}:{port.number}{local}")
        for ref in SERVICES
        for port in PORTS
        for local in ("", "~local", "#u1")
    ),
    *(Key(ALIASES, f"u{each}") for each in range(1, 5)),
]


class Nobody:
    """Watches, and hears of every change."""

    def __init__(self) -> None:
        self.heard: set[Key] = set()

    def notify(self, key: Key) -> None:
        self.heard.add(key)


class Catalogs(RuleBasedStateMachine):
    """A world that changes, and one catalog that is watched all the time."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.catalog = self.fresh()
        self.view = self.watched(self.catalog)

    def fresh(self) -> Catalog:
        return Catalog(self.world, "cluster.local", {"n1": "east", "n2": "west"}.__getitem__)

    def watched(self, catalog: Catalog) -> View:
        view = catalog.view("n1")
        for key in KEYS:
            view.subscribe(key, Nobody())
        return view

    def changed(self, touched: Touched) -> None:
        self.catalog.apply(touched)

    @rule(
        ref=st.sampled_from(SERVICES),
        addresses=st.none() | st.sets(st.sampled_from(ADDRESSES), max_size=2),
        ports=st.sampled_from([PORTS, PORTS[:1]]),
        local=st.booleans(),
    )
    def service(self, ref: Ref, addresses: set[str] | None, ports: Any, local: bool) -> None:
        made = Service(ref, tuple(sorted(addresses)), ports, local) if addresses else None
        self.changed(self.world.put_service(ref, made))

    @rule(
        name=st.sampled_from("xyz"),
        service=st.sampled_from("ab"),
        there=st.booleans(),
        endpoints=st.lists(
            st.builds(
                Endpoint,
                st.sampled_from(PODS),
                st.booleans(),
                st.booleans(),
                st.sampled_from(NODES),
                st.sampled_from([frozenset(), frozenset(("east",)), frozenset(("west",))]),
            ),
            max_size=4,
        ),
    )
    def slice(self, name: str, service: str, there: bool, endpoints: list[Endpoint]) -> None:
        ref = Ref("shop", name)
        ports = (ServicePort("http", 8080), ServicePort("grpc", 9090))
        made = EndpointSlice(ref, service, ports, tuple(endpoints)) if there else None
        self.changed(self.world.put_slice(ref, made))

    @rule(
        number=st.integers(1, 4),
        there=st.booleans(),
        address=st.sampled_from(PODS),
        node=st.sampled_from(NODES),
        meshed=st.booleans(),
        account=st.sampled_from(["one", "two"]),
        skips=st.booleans(),
    )
    def pod(
        self,
        number: int,
        there: bool,
        address: str,
        node: str,
        meshed: bool,
        account: str,
        skips: bool,
    ) -> None:
        ref = Ref("shop", f"pod-{number}")
        past = (PortRange(8080, 8080),) if skips else ()
        made = Workload(ref, f"u{number}", node, account, (address,), meshed, past_the_proxy=past)
        self.changed(self.world.put_workload(ref, made if there else None))

    @invariant()
    def it_says_what_a_fresh_one_says(self) -> None:
        other = self.watched(self.fresh())
        for key in KEYS:
            ours, theirs = self.view.get(key), other.get(key)
            if key.type_url == ALIASES and theirs is None:
                continue  # The pod is gone: nobody asks any more.
            if key.name.endswith("#u1") and theirs is None:
                continue
            assert (ours and ours.version) == (theirs and theirs.version), key


TestCatalogs = Catalogs.TestCase
TestCatalogs.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)


@pytest.fixture
def world() -> World:
    made = World()
    made.put_service(SERVICES[0], Service(SERVICES[0], ("10.96.0.1", "fd00::1"), PORTS))
    ports = (ServicePort("http", 8080), ServicePort("grpc", 9090))
    held = tuple(Endpoint(each, node="n1") for each in PODS[:2])
    made.put_slice(Ref("shop", "a-1"), EndpointSlice(Ref("shop", "a-1"), "a", ports, held))
    ref = Ref("shop", "pod-1")
    made.put_workload(ref, Workload(ref, "u1", "n1", "web", (PODS[0],), True, "deployment/web"))
    return made


def read(world: World, key: Key, node: str = "n1") -> dict[str, Any] | None:
    view = Catalog(world, "cluster.local", lambda _: "").view(node)
    view.subscribe(key, Nobody())
    found = view.get(key)
    if found is None:
        return None
    message = {CLUSTER: Cluster, ENDPOINTS: ClusterLoadAssignment}[key.type_url]()
    message.ParseFromString(found.value)
    return MessageToDict(message, preserving_proto_field_name=True)


def test_endpoints_are_called_by_their_identity_where_they_have_one(world: World) -> None:
    found = read(world, Key(ENDPOINTS, "shop/a:80"))
    assert found is not None
    meshed, plain = found["endpoints"][0]["lb_endpoints"]
    assert meshed["endpoint"] == {
        "address": {"socket_address": {"address": "10.1.0.1", "port_value": 8080}},
        "hostname": "web.shop.serviceaccount.identity.meshgraft.cluster.local",
    }
    assert meshed["metadata"]["filter_metadata"] == {
        "envoy.transport_socket_match": {"mtls": True},
        "meshgraft": {"namespace": "shop", "owner": "deployment/web", "pod": "pod-1"},
    }
    assert plain == {
        "endpoint": {"address": {"socket_address": {"address": "10.1.0.2", "port_value": 8080}}}
    }


@pytest.mark.parametrize(
    ("name", "type_", "service"),
    [
        ("10.96.0.1:80", "EDS", "shop/a:80"),
        ("tcp/[fd00::1]:90", "EDS", "shop/a:90"),
        ("10.96.0.1:81", "ORIGINAL_DST", None),
        ("10.1.0.1:80", "STATIC", None),
        ("10.1.0.9:80", "ORIGINAL_DST", None),
    ],
)
def test_a_destination_is_a_service_a_pod_or_whatever_is_there(
    world: World, name: str, type_: str | None, service: str | None
) -> None:
    found = read(world, Key(CLUSTER, name))
    assert found is not None
    assert found.get("type") == type_
    assert found.get("eds_cluster_config", {}).get("service_name") == service
    assert ("transport_socket_matches" in found) == (type_ != "ORIGINAL_DST")


@pytest.mark.parametrize("name", ["", "web", "10.96.0.1", "10.96.0.01:80", "10.96.0.1:0", "::1:80"])
def test_a_name_that_is_no_destination_is_not_answered(world: World, name: str) -> None:
    assert read(world, Key(CLUSTER, name)) is None


def test_of_pods_a_node_hears_its_own_only(world: World) -> None:
    own, other = (Catalog(world, "cluster.local", lambda _: "").view(node) for node in NODES)
    for key in (Key(ALIASES, "u1"), Key(ENDPOINTS, "shop/a:80#u1")):
        for view in (own, other):
            view.subscribe(key, Nobody())
        assert own.get(key) is not None
        assert other.get(key) is None


def test_routes_are_the_same_for_everybody(world: World) -> None:
    view = Catalog(world, "cluster.local", lambda _: "").view("n1")
    for name in ("outbound", "inbound"):
        view.subscribe(Key(ROUTES, name), Nobody())
        assert view.get(Key(ROUTES, name)) is not None


def test_what_nobody_watches_any_more_is_forgotten(world: World) -> None:
    catalog = Catalog(world, "cluster.local", lambda _: "")
    view, nobody = catalog.view("n1"), Nobody()
    for key in KEYS:
        view.subscribe(key, nobody)
    assert len(catalog.store) > 10
    for key in KEYS:
        view.unsubscribe(key, nobody)
    assert len(catalog.store) == 0
    for index in (catalog._standing, catalog._by_service, catalog._by_address, catalog._by_uid):
        assert not index
