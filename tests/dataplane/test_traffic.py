"""What a connection between two meshed pods meets, for both backends and both families."""

from __future__ import annotations

import contextlib
import http.client
import os
import queue
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import trustme

from meshgraft.lab.netns import Netns
from tests.dataplane.conftest import Mesh
from tests.dataplane.peers import (
    free_port,
    h2_call,
    h2_echo,
    read_all,
    read_exactly,
    reset,
    serving,
    web,
)

pytestmark = pytest.mark.root

OPAQUE = 3306
SKIPPED = 4567
MEBIBYTE = os.urandom(1024 * 1024)


@contextlib.contextmanager
def http_client(netns: Netns, host: str, port: int) -> Iterator[http.client.HTTPConnection]:
    """An HTTP/1.1 client inside a pod."""
    client = http.client.HTTPConnection(host, port, timeout=20)
    client.sock = netns.connect(host, port, 20)
    with contextlib.closing(client):
        yield client


def get(netns: Netns, host: str, port: int, path: str = "/") -> tuple[int, str]:
    with http_client(netns, host, port) as client:
        client.request("GET", path)
        response = client.getresponse()
        return response.status, response.read().decode()


class TestHttp:
    def test_both_proxies_carry_a_request(self, mesh: Mesh, address: str) -> None:
        with serving(mesh.server.netns, web) as port:
            seen = mesh.touched(lambda: get(mesh.client.netns, address, port))
        assert seen["client.outbound.http"] == 1
        assert seen["server.inbound.http"] == 1

    def test_request_and_response_pass_as_they_were_sent(self, mesh: Mesh, address: str) -> None:
        with (
            serving(mesh.server.netns, web) as port,
            http_client(mesh.client.netns, address, port) as client,
        ):
            headers = {"X-CamelCase": "1", "X-Request-Id": "mine", "X-Forwarded-For": "192.0.2.1"}
            client.request("GET", "/a//b/../c%2F?q=%20", headers={**headers, "Via": "1.1 before"})
            response = client.getresponse()
            head = response.read().decode()
        assert head.startswith("GET /a//b/../c%2F?q=%20 HTTP/1.1\n")
        for name, value in headers.items():
            assert f"{name}: {value}\n" in head
        assert "via: 1.1 before\n" in head.lower()
        assert "envoy" not in head.lower()
        assert ("X-MixedCase", "kept") in response.getheaders()
        assert "BaseHTTP" in (response.getheader("Server") or "")

    def test_one_mebibyte_passes_both_ways(self, mesh: Mesh, address: str) -> None:
        with (
            serving(mesh.server.netns, web) as port,
            http_client(mesh.client.netns, address, port) as client,
        ):
            client.request("POST", "/", body=MEBIBYTE)
            assert client.getresponse().read() == MEBIBYTE

    def test_http_1_0_without_a_host_is_answered(self, mesh: Mesh, address: str) -> None:
        with (
            serving(mesh.server.netns, web) as port,
            mesh.client.netns.connect(address, port) as client,
        ):
            client.sendall(b"GET /old HTTP/1.0\r\n\r\n")
            assert b"200 OK" in read_all(client)

    def test_a_websocket_upgrade_becomes_a_plain_connection(self, mesh: Mesh, address: str) -> None:
        def upgrade(connection: socket.socket) -> None:
            request = connection.recv(4096)
            assert b"Upgrade: websocket" in request or b"upgrade: websocket" in request
            connection.sendall(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                b"Connection: Upgrade\r\n\r\n"
            )
            connection.sendall(connection.recv(100)[::-1])

        with (
            serving(mesh.server.netns, upgrade) as port,
            mesh.client.netns.connect(address, port) as client,
        ):
            client.sendall(
                b"GET /ws HTTP/1.1\r\nHost: s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            assert client.recv(4096).startswith(b"HTTP/1.1 101 ")
            client.sendall(b"frame")
            assert client.recv(100) == b"emarf"

    def test_a_connect_request_reaches_a_proxy_behind_the_mesh(
        self, mesh: Mesh, address: str
    ) -> None:
        def forward_proxy(connection: socket.socket) -> None:
            assert connection.recv(4096).startswith(b"CONNECT example.test:443 HTTP/1.1\r\n")
            connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            connection.sendall(connection.recv(100)[::-1])

        with (
            serving(mesh.server.netns, forward_proxy) as port,
            mesh.client.netns.connect(address, port) as client,
        ):
            client.sendall(b"CONNECT example.test:443 HTTP/1.1\r\nHost: example.test:443\r\n\r\n")
            assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
            client.sendall(b"tunnel")
            assert client.recv(100) == b"lennut"

    def test_an_answer_that_takes_its_time_is_waited_for(self, mesh: Mesh, address: str) -> None:
        def slow(connection: socket.socket) -> None:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for _ in range(3):
                time.sleep(0.5)  # the behaviour under test, not a wait for something
                connection.sendall(b"1\r\nx\r\n")
            connection.sendall(b"0\r\n\r\n")

        with serving(mesh.server.netns, slow) as port:
            assert get(mesh.client.netns, address, port) == (200, "xxx")

    def test_200_parallel_connections_are_all_served(self, mesh: Mesh, address: str) -> None:
        def ask(client: http.client.HTTPConnection) -> int:
            client.request("GET", "/")
            response = client.getresponse()
            response.read()
            return response.status

        with (
            serving(mesh.server.netns, web) as port,
            ThreadPoolExecutor(200) as pool,
            contextlib.ExitStack() as stack,
        ):
            clients = [
                stack.enter_context(http_client(mesh.client.netns, address, port))
                for _ in range(200)
            ]
            assert list(pool.map(ask, clients)) == [200] * 200


class TestHttp2:
    def test_prior_knowledge_is_detected_and_trailers_pass(self, mesh: Mesh, address: str) -> None:
        def call() -> None:
            with mesh.client.netns.connect(address, port) as client:
                body, trailers = h2_call(client, b"hello")
            assert body == b"hello"
            assert trailers == {"grpc-status": "0"}

        with serving(mesh.server.netns, h2_echo) as port:
            seen = mesh.touched(call)
        assert seen["client.outbound.http"] == 1
        assert seen["server.inbound.http"] == 1

    def test_one_mebibyte_passes_both_ways(self, mesh: Mesh, address: str) -> None:
        with (
            serving(mesh.server.netns, h2_echo) as port,
            mesh.client.netns.connect(address, port, 20) as client,
        ):
            assert h2_call(client, MEBIBYTE)[0] == MEBIBYTE


class TestTcp:
    def test_a_server_that_speaks_first_is_heard_at_once_on_an_opaque_port(
        self, mesh: Mesh, address: str
    ) -> None:
        def greet(connection: socket.socket) -> None:
            connection.sendall(b"220 ready\r\n")
            connection.sendall(b"250 " + connection.recv(100))

        def talk() -> None:
            with mesh.client.netns.connect(address, OPAQUE, timeout=3) as client:
                assert client.recv(100) == b"220 ready\r\n"
                client.sendall(b"HELO")
                assert client.recv(100) == b"250 HELO"

        with serving(mesh.server.netns, greet, OPAQUE):
            seen = mesh.touched(talk)
        assert seen["client.outbound.tcp"] == 1
        assert seen["server.inbound.tcp"] == 1
        assert not seen["client.outbound.http"]

    def test_bytes_that_are_not_http_pass_untouched(self, mesh: Mesh, address: str) -> None:
        def echo(connection: socket.socket) -> None:
            connection.sendall(read_exactly(connection, len(MEBIBYTE)))

        with (
            serving(mesh.server.netns, echo) as port,
            mesh.client.netns.connect(address, port, 20) as client,
            ThreadPoolExecutor(1) as pool,
        ):
            received = pool.submit(read_exactly, client, len(MEBIBYTE))
            client.sendall(MEBIBYTE)
            assert received.result(20) == MEBIBYTE

    def test_a_half_closed_connection_still_answers(self, mesh: Mesh, address: str) -> None:
        with (
            serving(mesh.server.netns, lambda c: c.sendall(read_all(c)[::-1]), OPAQUE),
            mesh.client.netns.connect(address, OPAQUE) as client,
        ):
            client.sendall(b"all of it")
            client.shutdown(socket.SHUT_WR)
            assert read_all(client) == b"ti fo lla"

    def test_tls_passes_untouched(self, mesh: Mesh, address: str) -> None:
        authority = trustme.CA()
        server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("server.test").configure_cert(server_side)
        server_side.set_alpn_protocols(["h2", "http/1.1"])
        client_side = ssl.create_default_context()
        authority.configure_trust(client_side)
        client_side.set_alpn_protocols(["h2"])

        def serve(connection: socket.socket) -> None:
            with server_side.wrap_socket(connection, server_side=True) as secure:
                secure.sendall(secure.recv(100)[::-1])

        def talk() -> None:
            raw = mesh.client.netns.connect(address, port)
            with client_side.wrap_socket(raw, server_hostname="server.test") as secure:
                assert secure.selected_alpn_protocol() == "h2"
                secure.sendall(b"secret")
                assert secure.recv(100) == b"terces"

        with serving(mesh.server.netns, serve) as port:
            seen = mesh.touched(talk)
        assert seen["client.outbound.tcp"] == 1
        assert seen["server.inbound.tcp"] == 1
        assert not seen["client.outbound.http"]


class TestFailure:
    """The proxy accepts before it knows of a failure, so connect() itself cannot fail as it does
    without a mesh; what comes after it must leave no doubt."""

    def test_a_refused_http_request_is_a_503(self, mesh: Mesh, address: str) -> None:
        status, body = get(mesh.client.netns, address, free_port())
        assert (status, "connect" in body) == (503, True)

    def test_a_refused_connection_ends_without_a_byte(self, mesh: Mesh, address: str) -> None:
        with mesh.client.netns.connect(address, OPAQUE) as client:
            started = time.monotonic()
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(1) == b""
            assert time.monotonic() - started < 5

    def test_a_refused_connection_resets_a_client_that_speaks(
        self, mesh: Mesh, address: str
    ) -> None:
        with mesh.client.netns.connect(address, free_port()) as client:
            client.sendall(b"\x00\x01\x02 not http")
            with pytest.raises(ConnectionResetError):
                client.recv(1)

    def test_a_refused_connection_on_a_skipped_port_is_refused(
        self, mesh: Mesh, address: str
    ) -> None:
        with pytest.raises(ConnectionRefusedError):
            mesh.client.netns.connect(address, SKIPPED)

    def test_a_reset_is_seen_as_a_reset(self, mesh: Mesh, address: str) -> None:
        def bite(connection: socket.socket) -> None:
            connection.recv(100)
            reset(connection)

        with (
            serving(mesh.server.netns, bite) as port,
            mesh.client.netns.connect(address, port) as client,
        ):
            client.sendall(b"\x00\x01\x02 not http")
            with pytest.raises(ConnectionResetError):
                client.recv(1)

    def test_a_reset_before_the_answer_is_a_503(self, mesh: Mesh, address: str) -> None:
        def bite(connection: socket.socket) -> None:
            connection.recv(4096)
            reset(connection)

        with serving(mesh.server.netns, bite) as port:
            assert get(mesh.client.netns, address, port)[0] == 503

    def test_a_reset_within_the_answer_is_an_incomplete_answer(
        self, mesh: Mesh, address: str
    ) -> None:
        def bite(connection: socket.socket) -> None:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this")
            time.sleep(0.2)  # so that the bytes are on their way before the reset overtakes them
            reset(connection)

        with (
            serving(mesh.server.netns, bite) as port,
            pytest.raises((http.client.IncompleteRead, ConnectionResetError)),
        ):
            get(mesh.client.netns, address, port)

    def test_a_client_that_resets_is_seen_by_the_server(self, mesh: Mesh, address: str) -> None:
        arrived = threading.Event()
        outcome: queue.Queue[OSError | bytes] = queue.Queue()

        def wait(connection: socket.socket) -> None:
            connection.recv(100)
            arrived.set()
            try:
                outcome.put(connection.recv(100))
            except OSError as error:
                outcome.put(error)

        with serving(mesh.server.netns, wait) as port:
            client = mesh.client.netns.connect(address, port)
            client.sendall(b"\x00\x01\x02 not http")
            assert arrived.wait(5)
            reset(client)
            assert isinstance(outcome.get(timeout=5), ConnectionResetError)


class TestBypass:
    def test_a_skipped_port_touches_no_proxy(self, mesh: Mesh, address: str) -> None:
        with serving(mesh.server.netns, web, SKIPPED):
            seen = mesh.touched(lambda: get(mesh.client.netns, address, SKIPPED))
        assert not seen

    def test_loopback_touches_no_proxy(self, mesh: Mesh) -> None:
        with serving(mesh.server.netns, web) as port:
            seen = mesh.touched(lambda: get(mesh.server.netns, "127.0.0.1", port))
        assert not seen

    def test_an_unmeshed_client_meets_the_servers_proxy_only(
        self, mesh: Mesh, address: str
    ) -> None:
        with serving(mesh.server.netns, web) as port:
            seen = mesh.touched(lambda: get(mesh.plain.netns, address, port))
        assert seen == {"server.inbound.http": 1, "server.inbound.connections": 1}

    def test_an_unmeshed_server_meets_the_clients_proxy_only(self, mesh: Mesh) -> None:
        with serving(mesh.plain.netns, web) as port:
            seen = mesh.touched(lambda: get(mesh.client.netns, mesh.plain.ipv4, port))
        assert seen == {"client.outbound.http": 1, "client.outbound.connections": 1}


class TestProxyItself:
    def test_a_connection_to_the_proxys_own_port_is_not_sent_round_in_circles(
        self, mesh: Mesh, address: str
    ) -> None:
        def knock() -> None:
            with mesh.plain.netns.connect(address, 4143) as client:
                client.sendall(b"GET / HTTP/1.1\r\nHost: s\r\n\r\n")
                with contextlib.suppress(ConnectionResetError):
                    assert client.recv(1000) == b""

        assert mesh.touched(knock)["server.inbound.connections"] <= 2

    @pytest.mark.parametrize(
        ("path", "status"),
        [
            ("/live", 200),
            ("/ready", 200),
            ("/metrics", 200),
            ("/", 404),
            ("/stats", 404),
            ("/config_dump", 404),
            ("/quitquitquit", 404),
            ("/metrics/../config_dump", 404),
            ("/shutdown", 404),
        ],
    )
    def test_the_pod_network_sees_health_and_metrics_only(
        self, mesh: Mesh, address: str, path: str, status: int
    ) -> None:
        assert get(mesh.plain.netns, address, 4191, path)[0] == status

    def test_the_metrics_are_prometheus_text(self, mesh: Mesh, address: str) -> None:
        _, text = get(mesh.plain.netns, address, 4191, "/metrics")
        assert "# TYPE envoy_cluster_upstream_rq_total counter" in text

    def test_envoys_admin_interface_is_not_on_the_pod_network(
        self, mesh: Mesh, address: str
    ) -> None:
        with pytest.raises(ConnectionRefusedError):
            mesh.plain.netns.connect(address, 4190)
