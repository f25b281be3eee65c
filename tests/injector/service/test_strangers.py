"""What anything on the pod network may try on a real webhook process, and an API server does not
notice: each attack goes on while a review from another address is answered, in little memory."""

from __future__ import annotations

import contextlib
import http.client
import json
import resource
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from certificates.x509 import issue_authority
from injector.service.server import HEADER_BYTES, MAX_CONNECTIONS
from tests.injector.running import REVIEW, Running

STRANGER = "127.0.0.66"
MOST_KIB = 200 * 1024
Start = Callable[..., Running]


@pytest.fixture(autouse=True)
def _many_descriptors() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(20_000, limits[1]), limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


class Crowd:
    """Connections from one address that is not the API server's."""

    def __init__(self, running: Running) -> None:
        self.address = (running.address.host, running.address.port)
        self.open: list[socket.socket] = []
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.check_hostname = False
        self.context.verify_mode = ssl.CERT_NONE

    def plain(self) -> socket.socket:
        """One more TCP connection."""
        connection = socket.create_connection(self.address, 10, source_address=(STRANGER, 0))
        self.open.append(connection)
        return connection

    def tls(self) -> ssl.SSLSocket | None:
        """One more TLS connection; None where it was not let in."""
        try:
            connection = self.context.wrap_socket(self.plain())
        except OSError:
            return None
        self.open.append(connection)
        return connection

    def say(self, data: bytes) -> None:
        """Send it on a new TLS connection, as far as that goes."""
        connection = self.tls()
        if connection is not None:
            connection.settimeout(2)
            with contextlib.suppress(OSError):  # hung up on, which is what should happen
                connection.sendall(data)

    def close(self) -> None:
        for connection in self.open:
            connection.close()


def silent(crowd: Crowd) -> None:
    for _ in range(10_000):
        crowd.plain()


def idle(crowd: Crowd) -> None:
    for _ in range(MAX_CONNECTIONS + 100):
        crowd.tls()


def half_a_handshake(crowd: Crowd) -> None:
    for _ in range(2 * MAX_CONNECTIONS):
        with contextlib.suppress(OSError):
            crowd.plain().sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")


def slow_headers(crowd: Crowd) -> None:
    for _ in range(MAX_CONNECTIONS + 50):
        crowd.say(b"POST / HTTP/1.1\r\nhost: x\r\n")


def endless_headers(crowd: Crowd) -> None:
    crowd.say(b"POST / HTTP/1.1\r\n" + b"a: %s\r\n" % (b"x" * 8000) * 9000)


def endless_url(crowd: Crowd) -> None:
    crowd.say(b"POST /" + b"x" * (20 << 20))


def endless_trailers(crowd: Crowd) -> None:
    head = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n"
    crowd.say(head + b"a: %s\r\n" % (b"x" * 8000) * 4000)


def large_bodies(crowd: Crowd) -> None:
    size = 3 << 20
    head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (size + 1)
    for _ in range(40):
        crowd.say(head + b" " * size)


def larger_bodies(crowd: Crowd) -> None:
    head = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    for _ in range(10):
        crowd.say(head + b"100000\r\n%s\r\n" % (b" " * 0x100000) * 8)


def small_bodies_that_stop(crowd: Crowd) -> None:
    head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 300000\r\n\r\n"
    for _ in range(MAX_CONNECTIONS + 20):
        crowd.say(head + b" " * 100_000)


def pipelining(crowd: Crowd) -> None:
    one = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(REVIEW) + REVIEW
    for _ in range(20):
        crowd.say(one * 200)
    for _ in range(20):
        crowd.say(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" * 50_000)


def ask(running: Running) -> tuple[int, float]:
    """Status of a review on a new connection of the API server's, and its seconds."""
    started = time.monotonic()
    with contextlib.closing(running.https()) as connection:
        connection.request("POST", "/mutate", REVIEW, {"content-type": "application/json"})
        response = connection.getresponse()
        assert json.loads(response.read())["response"]["allowed"] is True
        return response.status, time.monotonic() - started


def peak_kib(running: Running) -> int:
    status = Path(f"/proc/{running.process.pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1])


@pytest.mark.parametrize(
    "attack",
    [
        silent,
        idle,
        half_a_handshake,
        slow_headers,
        endless_headers,
        endless_url,
        endless_trailers,
        large_bodies,
        larger_bodies,
        small_bodies_that_stop,
        pipelining,
    ],
)
def test_an_api_server_does_not_notice(attack: Callable[[Crowd], None], start: Start) -> None:
    running = start("--profile=linkerd")
    crowd = Crowd(running)
    attacking = threading.Thread(target=attack, args=(crowd,))
    answers = []
    try:
        attacking.start()
        while attacking.is_alive():
            answers.append(ask(running))
            time.sleep(0.1)
        answers += [ask(running) for _ in range(5)]
        status, page = running.get("/metrics")
        ready, _ = running.get("/readyz")
    finally:
        attacking.join()
        crowd.close()
    assert {status for status, _ in answers} == {200}
    assert max(seconds for _, seconds in answers) < 5
    assert peak_kib(running) < MOST_KIB
    assert (status, ready) == (200, 200)
    assert "proxy_inject_connections{" in page


def metric(running: Running, name: str) -> float:
    _, page = running.get("/metrics")
    [line] = [line for line in page.splitlines() if line.startswith(name + " ")]
    return float(line.split()[1])


def test_metrics_show_a_crowd(start: Start) -> None:
    running = start("--profile=linkerd")
    crowd = Crowd(running)
    try:
        for _ in range(MAX_CONNECTIONS + 10):
            crowd.plain()
        ask(running)
        ended = "proxy_inject_connections_ended_total"
        assert metric(running, 'proxy_inject_connections{stage="handshake"}') > MAX_CONNECTIONS - 30
        assert metric(running, f'{ended}{{reason="evicted"}}') >= 1
        assert metric(running, f'{ended}{{reason="refused"}}') >= 5
    finally:
        crowd.close()
    deadline = time.monotonic() + 10
    while metric(running, f'{ended}{{reason="handshake"}}') < MAX_CONNECTIONS - 30:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_headers_have_a_bound_that_is_far_from_an_api_servers(start: Start) -> None:
    running = start("--profile=linkerd")
    with contextlib.closing(running.https()) as connection:
        headers = {f"x-{number}": "y" * 1000 for number in range(HEADER_BYTES // 2000)}
        connection.request("POST", "/mutate", REVIEW, headers)
        assert connection.getresponse().status == 200
    with contextlib.closing(running.https()) as connection:
        headers = {f"x-{number}": "y" * 1000 for number in range(4 * HEADER_BYTES // 1000)}
        try:
            connection.request("POST", "/mutate", REVIEW, headers)
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException):
            status = None
    assert status is None


class TestClientCertificates:
    """The CA is one that this test makes; the same for the client that it refuses."""

    @pytest.mark.parametrize("version", ["1.2", "1.3"])
    def test_whom_the_ca_has_signed_is_let_in_and_nobody_else(
        self, version: str, start: Start, tmp_path: Path
    ) -> None:
        ours, others = tmp_path / "ours", tmp_path / "others"
        for folder in (ours, others):
            client_pair(folder)
        running = start(
            "--profile=linkerd",
            f"--client-ca={ours / 'ca.crt'}",
            f"--tls-min-version={version}",
        )
        assert status_with(running, ours) == 200
        assert status_with(running, others) is None
        assert status_with(running, None) is None


def status_with(running: Running, folder: Path | None) -> int | None:
    """Status of a review from a client with this certificate; None where it is not let in."""
    context = running.tls()
    if folder is not None:
        context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    connection = http.client.HTTPSConnection(
        running.address.host, running.address.port, context=context, timeout=10
    )
    with contextlib.closing(connection):
        try:
            connection.request("POST", "/mutate", REVIEW)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return None


def client_pair(folder: Path) -> None:
    """A CA, and a client certificate of it, as files."""
    folder.mkdir()
    now = datetime.now(UTC)
    authority, key = issue_authority(now), ec.generate_private_key(ec.SECP256R1())
    leaf = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kube-apiserver")]))
        .issuer_name(authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(authority.key, hashes.SHA256())
    )
    (folder / "ca.crt").write_bytes(authority.certificate.public_bytes(Encoding.PEM))
    (folder / "tls.crt").write_bytes(leaf.public_bytes(Encoding.PEM))
    (folder / "tls.key").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_an_api_server_in_fips_mode_can_call(version: Any, start: Start) -> None:
    running = start("--profile=linkerd", "--tls-min-version=1.2")
    context = running.tls()
    context.maximum_version = version
    connection = http.client.HTTPSConnection(
        running.address.host, running.address.port, context=context, timeout=10
    )
    with contextlib.closing(connection):
        connection.request("POST", "/mutate", REVIEW)
        assert connection.getresponse().status == 200
