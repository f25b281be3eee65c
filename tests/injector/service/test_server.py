"""The process: addresses, TLS 1.3, keep-alive, clients that dawdle, and a graceful end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from injector.service import server
from injector.service.app import create_metrics_app
from injector.service.metrics import Metrics
from injector.service.server import Address, AddressError, bind, bound, parse_address
from process.health import Health
from tests.injector.running import DATA, REVIEW, SECONDS, Running, connected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:0", Address("127.0.0.1", 0)),
        (":8443", Address("0.0.0.0", 8443)),
        ("[::1]:65535", Address("::1", 65535)),
        ("[::]:80", Address("::", 80)),
        ("localhost:80", Address("localhost", 80)),
    ],
)
def test_addresses_are_read(text: str, expected: Address) -> None:
    assert parse_address(text) == expected
    assert parse_address(str(expected)) == expected


@pytest.mark.parametrize("text", ["", "8443", "host:", "host:x", "host:65536", "::1:80", "h:-1"])
def test_what_is_no_address_is_said_to_be_none(text: str) -> None:
    with pytest.raises(AddressError, match=r"HOST:PORT|brackets"):
        parse_address(text)


def test_an_address_in_use_is_named() -> None:
    with bind(Address("127.0.0.1", 0)) as taken:
        address = bound(taken)
        with pytest.raises(AddressError, match=f"cannot listen on {address}: .*in use"):
            bind(address)


@pytest.mark.parametrize("sent", [b"", b"POST / HT", b"POST / HTTP/1.1\r\nhost: x\r\n"])
def test_a_client_that_begins_and_says_no_more_is_hung_up_on(
    monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(server, "HEADER_SECONDS", 0.1)
    monkeypatch.setattr(server, "KEEP_ALIVE_SECONDS", 0.1)

    async def talk() -> bytes:
        app = create_metrics_app(metrics=Metrics("test"), health=Health())
        async with connected(app) as (reader, writer):
            writer.write(sent)
            return await reader.read()

    assert asyncio.run(talk()) == b""


def test_a_review_is_answered_over_tls_with_keep_alive(start: Callable[..., Running]) -> None:
    running = start("--profile=linkerd")
    sockets = set()
    with contextlib.closing(running.https()) as connection:
        for path in ("/", "/mutate?timeout=10s", "/"):
            connection.request("POST", path, REVIEW, {"content-type": "application/json"})
            response = connection.getresponse()
            answer = json.loads(response.read())
            assert response.status == 200
            assert answer["response"]["patchType"] == "JSONPatch"
            assert isinstance(connection.sock, ssl.SSLSocket)
            sockets.add(connection.sock)
            assert connection.sock.version() == "TLSv1.3"
        assert len(sockets) == 1
        connection.request("GET", "/readyz")
        assert connection.getresponse().read() == b"ok\n"


def test_tls_1_2_is_refused_and_http_1_1_negotiated(start: Callable[..., Running]) -> None:
    running = start()
    old = running.tls()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    address = (running.address.host, running.address.port)
    with (
        socket.create_connection(address, timeout=SECONDS) as plain,
        pytest.raises(ssl.SSLError, match=r"(?i)protocol version|EOF"),
    ):
        old.wrap_socket(plain, server_hostname="localhost")
    modern = running.tls()
    modern.set_alpn_protocols(["h2", "http/1.1"])
    with (
        socket.create_connection(address, timeout=SECONDS) as plain,
        modern.wrap_socket(plain, server_hostname="meshgraft-injector.meshgraft.svc") as secure,
    ):
        assert secure.selected_alpn_protocol() == "http/1.1"


def test_health_and_metrics_are_on_the_plain_port(start: Callable[..., Running]) -> None:
    running = start()
    assert running.get("/ping") == (200, "pong\n")
    assert running.get("/ready") == (200, "ok\n")
    assert running.get("/livez") == (200, "ok\n")
    status, text = running.get("/readyz?verbose")
    assert status == 200
    assert "[+]certificate ok" in text
    status, text = running.get("/metrics")
    expiry = [line for line in text.splitlines() if line.startswith("proxy_inject_certificate")]
    assert status == 200
    assert float(expiry[0].split()[1]) > time.time() + 80 * 24 * 3600
    assert "process_open_fds" in text


def _accepts(address: Address) -> bool:
    try:
        socket.create_connection((address.host, address.port), timeout=SECONDS).close()
    except OSError:
        return False
    return True


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.02)


def test_a_review_under_way_outlives_the_signal(start: Callable[..., Running]) -> None:
    running = start("--shutdown-delay=60")
    with contextlib.closing(running.https()) as connection:
        connection.putrequest("POST", "/")
        connection.putheader("content-length", str(len(REVIEW)))
        connection.endheaders()
        connection.send(REVIEW[:100])

        running.process.send_signal(signal.SIGTERM)
        assert running.wait_for("shutting down")["signal"] == "SIGTERM"
        status, text = running.get("/readyz")
        assert status == 500
        assert "[-]shutdown failed: shutting down" in text
        assert _accepts(running.address)  # until every node knows, reviews still come

        running.process.send_signal(signal.SIGTERM)  # cuts the delay short
        _until(lambda: not _accepts(running.address))
        assert running.get("/livez")[0] == 200
        connection.send(REVIEW[100:])
        response = connection.getresponse()
        assert response.status == 200
        assert response.getheader("connection") == "close"
        assert json.loads(response.read())["response"]["allowed"] is True
    assert running.process.wait(SECONDS) == 0


def test_idle_connections_do_not_hold_up_the_end(start: Callable[..., Running]) -> None:
    running = start("--shutdown-delay=0")
    with contextlib.closing(running.https()) as connection:
        connection.request("POST", "/", REVIEW)
        assert connection.getresponse().read()
        begun = time.monotonic()
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(SECONDS) == 0
        assert time.monotonic() - begun < server.FINISH_SECONDS


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ([], "name the cluster with --kubeconfig FILE, or give the cluster's Namespaces with"),
        (["--kubeconfig=/does/not/exist"], "/does/not/exist: cannot be read"),
        (["--offline-objects=/does/not/exist"], "/does/not/exist: cannot be read"),
        (["--listen=nonsense"], "'nonsense' is not HOST:PORT"),
        (["--values=/does/not/exist"], "/does/not/exist: cannot be read"),
        (["--cert-dir=/dev/null/x"], "/dev/null/x: cannot be made"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) and value else None,
)
def test_what_cannot_start_says_why_in_one_line(flags: list[str], sentence: str) -> None:
    offline = f"--offline-objects={DATA / 'namespaces.json'}"
    if flags and not flags[0].startswith(("--offline-objects", "--kubeconfig")):
        flags = [*flags, offline]
    ended = subprocess.run(
        [sys.executable, "-m", "meshgraft", "webhook", *flags],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env={**os.environ, "NO_COLOR": "1"},
        check=False,
    )
    assert ended.returncode == 1
    assert sentence in ended.stderr
    assert "Traceback" not in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
