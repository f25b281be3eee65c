"""The proxy of a node: Envoy takes its configuration, and does with requests what the docs say."""

from __future__ import annotations

import http.client
import http.server
import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from injector.core.values import NodeValues
from injector.profiles import get_profile
from injector.profiles.node import NodeProfile
from meshgraft.charts.helm import Tree, merge
from meshgraft.lab.envoy import envoy_binary
from meshgraft.lab.process import Process
from tests.charts.support import INJECTOR, container, objects, one

ON: Tree = {"nodeProxy": {"enabled": True}}


def envoy_yaml(values: Tree) -> str:
    found = one(objects(INJECTOR, merge(ON, values)), "ConfigMap", "meshgraft-node-proxy-config")
    text: str = found["data"]["envoy.yaml"]
    return text


def test_it_is_off_by_default() -> None:
    assert all("node-proxy" not in each["metadata"]["name"] for each in objects(INJECTOR))


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"disableIPv6": False},
        {"nodeProxy": {"accessLog": True, "allowFrom": ["10.0.0.0/8", "fd00::/8"]}},
        {"clusterNetworks": "10.0.0.0/8, fd00::/8", "nodeProxy": {"connectTimeout": "0.5s"}},
    ],
)
def test_envoy_accepts_the_configuration(values: Tree, tmp_path: Path) -> None:
    (tmp_path / "envoy.yaml").write_text(envoy_yaml(values))
    done = subprocess.run(
        [
            *(str(envoy_binary()), "--mode", "validate", "--disable-hot-restart"),
            *("--config-path", str(tmp_path / "envoy.yaml")),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_its_ports_are_those_that_pods_are_told() -> None:
    assert isinstance(get_profile("node"), NodeProfile)
    ports = {
        each["name"]: (each["containerPort"], each.get("hostPort"))
        for each in container(one(objects(INJECTOR, ON), "DaemonSet"))["ports"]
    }
    told = NodeValues()
    assert ports == {
        "http": (told.http_port, told.http_port),
        "http2": (told.http2_port, told.http2_port),
        "grpc": (told.grpc_port, told.grpc_port),
        "admin-http": (4191, None),
    }


def test_a_changed_configuration_makes_new_pods() -> None:
    def checksum(values: Tree) -> str:
        template = one(objects(INJECTOR, merge(ON, values)), "DaemonSet")["spec"]["template"]
        found: str = template["metadata"]["annotations"]["checksum/config"]
        return found

    assert checksum({}) != checksum({"nodeProxy": {"accessLog": True}})


def test_envoys_own_admin_interface_has_no_address() -> None:
    """A request for 127.0.0.1 would lead to it."""
    assert "pipe" in yaml.safe_load(envoy_yaml({}))["admin"]["address"]


# --- with requests -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Node:
    """A running proxy, and a server behind it."""

    http_port: int
    admin_port: int
    server_port: int

    def get(self, authority: str) -> tuple[int, str]:
        """GET through the proxy, in the form that ``http_proxy`` makes clients use."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=10)
        try:
            connection.request("GET", f"http://{authority}/path")
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()


class _Server(http.server.BaseHTTPRequestHandler):
    """Answers with the path and the headers that it was asked with."""

    def do_GET(self) -> None:
        body = json.dumps([self.path, dict(self.headers)]).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@contextmanager
def server() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Server) as behind:
        threading.Thread(target=behind.serve_forever, daemon=True).start()
        yield behind.server_address[1]
        behind.shutdown()


@contextmanager
def node(folder: Path, allow_from: list[str]) -> Iterator[Node]:
    """The proxy as its ConfigMap has it, except for ports and the folder of its socket."""
    ports = free_ports(4)
    values: Tree = {
        "nodeProxy": {"allowFrom": allow_from, "logLevel": "warning"},
        "meshgraft": {
            "node": dict(zip(("httpPort", "http2Port", "grpcPort"), ports, strict=False))
        },
    }
    text = envoy_yaml(values).replace("/tmp/admin.sock", str(folder / "admin.sock"))
    config = folder / "envoy.yaml"
    config.write_text(text.replace("port_value: 4191", f"port_value: {ports[3]}"))
    argv = [str(envoy_binary()), "--config-path", str(config), "--disable-hot-restart"]
    process = Process("envoy", [*argv, "--concurrency", "1"], folder / "envoy.log")
    try:
        with server() as behind:
            process.wait_for(lambda: ready(ports[3]), "not ready")
            yield Node(ports[0], ports[3], behind)
    finally:
        process.stop()


def ready(port: int) -> bool | None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/ready")
        return True if connection.getresponse().status == 200 else None
    except OSError:
        return None
    finally:
        connection.close()


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A proxy that this machine may use."""
    with node(tmp_path_factory.mktemp("node"), ["127.0.0.0/8"]) as running:
        yield running


def test_a_request_is_forwarded_by_its_host(local: Node) -> None:
    status, body = local.get(f"localhost:{local.server_port}")
    path, headers = json.loads(body)
    assert (status, path) == (200, "/path")
    assert headers["host"] == f"localhost:{local.server_port}"
    assert headers["via"] == "meshgraft-node"
    assert not {"x-request-id", "x-forwarded-for"} & headers.keys()


def test_a_request_that_leads_back_here_ends(local: Node) -> None:
    status, body = local.get(f"127.0.0.1:{local.http_port}")
    assert status == 508
    assert "again and again" in body


def test_its_metrics_can_be_read(local: Node) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", local.admin_port, timeout=10)
    connection.request("GET", "/metrics")
    answer = connection.getresponse()
    assert answer.status == 200
    assert b"envoy_http_downstream_rq_total" in answer.read()
    connection.close()


def test_nothing_else_of_the_admin_interface_can_be_reached(local: Node) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", local.admin_port, timeout=10)
    connection.request("POST", "/quitquitquit")
    assert connection.getresponse().status == 404
    connection.close()


def test_strangers_are_not_served(tmp_path: Path) -> None:
    with node(tmp_path, ["192.0.2.0/24"]) as running, pytest.raises(OSError):
        running.get(f"localhost:{running.server_port}")
