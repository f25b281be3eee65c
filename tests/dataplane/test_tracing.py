"""Spans of a traced request reach an OpenTelemetry collector, from both proxies."""

from __future__ import annotations

import queue
import socket
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import pytest

from meshgraft.lab.envoy import running_envoy
from meshgraft.lab.lab import GATEWAY
from tests.dataplane.conftest import Mesh, patched_pod
from tests.dataplane.peers import free_port, serving, web
from tests.dataplane.test_traffic import http_client

pytestmark = pytest.mark.root

_EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize("mesh", ["nft"], indirect=True)
def test_a_traced_request_is_reported(mesh: Mesh, tmp_path: Path) -> None:
    port = free_port()
    pod = patched_pod(
        {
            "config.linkerd.io/trace-collector": f"{GATEWAY}:{port}",
            "resource.opentelemetry.io/team": "a,b=c",
            "resource.opentelemetry.io/nothing": "",
        }
    )
    traced = mesh.lab.pod("traced", pod["metadata"]["annotations"])
    exports: queue.Queue[tuple[str, bytes]] = queue.Queue()

    def collector(connection: socket.socket) -> None:
        """A gRPC server that keeps what it is sent."""
        peer = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        )
        peer.initiate_connection()
        connection.sendall(peer.data_to_send())
        paths: dict[int, str] = {}
        while data := connection.recv(65536):
            for event in peer.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    headers = {str(name): str(value) for name, value in event.headers or []}
                    paths[event.stream_id] = headers[":path"]
                elif isinstance(event, h2.events.DataReceived):
                    exports.put((paths[event.stream_id], event.data))
                    peer.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            connection.sendall(peer.data_to_send())

    with (
        serving(mesh.lab.node, collector, port),
        running_envoy(pod, traced.netns, tmp_path / "envoy.log"),
        serving(traced.netns, web) as web_port,
        http_client(mesh.plain.netns, traced.ipv4, web_port) as client,
    ):
        client.request("GET", "/", headers={"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"})
        head = client.getresponse().read().decode()
        assert f"traceparent: 00-{TRACE}-" in head
        assert "x-request-id" not in head.lower()
        path, spans = exports.get(timeout=20)
    assert path == _EXPORT
    assert bytes.fromhex(TRACE) in spans
    assert b"a%2Cb%3Dc" in spans, "as the specification of OTEL_RESOURCE_ATTRIBUTES has it"
