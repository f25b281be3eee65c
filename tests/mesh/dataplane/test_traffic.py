"""All that holds for traffic without the mesh holds with it: the same tests, over its TLS, to a
pod's addresses and to a Service's."""

from __future__ import annotations

import contextlib

import pytest

from mesh.model.values import Endpoint, EndpointSlice, Ref, Service, ServicePort
from mesh.model.world import World
from meshgraft.lab.lab import has_ipv6
from tests.dataplane import test_traffic as without
from tests.dataplane.conftest import Mesh
from tests.dataplane.peers import free_port
from tests.dataplane.test_traffic import OPAQUE, SKIPPED, TestHttp, TestHttp2, TestTcp
from tests.mesh.dataplane.conftest import Cluster

__all__ = ["TestHttp", "TestHttp2", "TestTcp"]

SERVICE = {"service-ipv4": "10.96.7.1", "service-ipv6": "fd00:96::7"}


@pytest.fixture(scope="module")
def mesh(cluster: Cluster) -> Mesh:
    client, server = (cluster.meshed(name) for name in ("client", "server"))
    ports = tuple(ServicePort(f"p{each}", each) for each in (OPAQUE, SKIPPED, *range(20000, 20400)))
    ref = Ref("lab", "server")

    def serve(world: World) -> object:
        world.put_service(ref, Service(ref, tuple(SERVICE.values()), ports))
        for family, address in (("4", server.pod.ipv4), ("6", server.pod.ipv6)):
            name = Ref("lab", f"server-{family}")
            held = EndpointSlice(name, "server", ports, (Endpoint(address),))
            touched = world.put_slice(name, held)
        return touched

    cluster.change(serve)
    plain = cluster.lab.pod("plain", {})
    return Mesh(cluster.lab, client.pod, server.pod, plain, client.envoy, server.envoy)


def of_server(mesh: Mesh, kind: str) -> str:
    """The server's address: the pod's, or the Service's."""
    if kind.endswith("ipv6") and not has_ipv6():
        pytest.skip("this kernel has no IPv6, or namespaces may not use it")
    found: str = SERVICE.get(kind) or getattr(mesh.server, kind)
    return found


@pytest.fixture(params=["ipv4", "ipv6", *SERVICE])
def address(request: pytest.FixtureRequest, mesh: Mesh) -> str:
    return of_server(mesh, request.param)


@pytest.fixture(params=["ipv4", "ipv6"])
def own_address(request: pytest.FixtureRequest, mesh: Mesh) -> str:
    return of_server(mesh, request.param)


class TestFailure(without.TestFailure):
    """The same, except for what TLS between the proxies makes of a refusal."""

    def test_a_refused_connection_resets_a_client_that_speaks(
        self, mesh: Mesh, address: str
    ) -> None:
        """Or ends without a byte: a reset does not pass through TLS that closes in good order."""
        with mesh.client.netns.connect(address, free_port()) as client:
            client.sendall(b"\x00\x01\x02 not http")
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(1) == b""

    def test_a_refused_connection_on_a_skipped_port_is_refused(
        self, mesh: Mesh, own_address: str
    ) -> None:
        """Past the proxy only the node's own rules know a Service's address: none are here."""
        super().test_a_refused_connection_on_a_skipped_port_is_refused(mesh, own_address)


class TestPast(without.TestBypass, without.TestProxyItself):
    """What does not go through the client's proxy, and so to no Service's address here."""

    @pytest.fixture
    def address(self, own_address: str) -> str:
        return own_address
