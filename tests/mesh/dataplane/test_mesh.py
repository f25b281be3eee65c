"""What the mesh does for traffic, with real Envoys."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from functools import partial

import pytest

from mesh.model.values import Ref
from meshgraft.lab.apps import Answer, ClientError, get, serving_app
from meshgraft.lab.process import unprivileged
from tests.dataplane.peers import serving, web
from tests.mesh.dataplane.conftest import Authority, Cluster, Meshed, until
from vocabulary.annotations.redirect import PortRange

WEB, PORT = "10.96.0.10", 8080
HANDSHAKES = "listener.inbound.ssl.handshake"


@pytest.fixture(scope="module")
def client(cluster: Cluster) -> Meshed:
    return cluster.meshed("client")


@pytest.fixture(scope="module")
def servers(cluster: Cluster) -> list[Meshed]:
    found = [cluster.meshed(name) for name in ("web-0", "web-1")]
    for each in found:
        name = each.workload.ref.name
        app = serving_app(each.netns, name, cluster.lab.log(f"app-{name}"), PORT)
        cluster.stack.enter_context(app)
    cluster.service("web", WEB, PORT, *(each.pod for each in found))
    return found


def pods_of(answers: list[Answer]) -> Counter[str]:
    return Counter(answer.body.get("pod", str(answer.status)) for answer in answers)


def test_requests_to_a_service_are_balanced_and_both_ends_are_proven(
    cluster: Cluster, client: Meshed, servers: list[Meshed]
) -> None:
    before = [each.envoy.counters()[HANDSHAKES] for each in servers]
    answers = get(client.netns, WEB, PORT, count=40)
    assert pods_of(answers).keys() == {"web-0", "web-1"}
    after = [each.envoy.counters()[HANDSHAKES] for each in servers]
    assert all(now > then for now, then in zip(after, before, strict=True))
    assert cluster.refusals == []
    certificate = answers[0].body["headers"]["x-forwarded-client-cert"]
    assert "URI=spiffe://cluster.local/ns/lab/sa/client" in certificate


def test_nothing_can_be_read_on_the_wire(client: Meshed, servers: list[Meshed]) -> None:
    """What passes the client's end of its cable, while it sends a word that is easy to find."""
    word = "hunter2-in-plain-sight"
    with client.netns.entered():
        capture = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    capture.bind(("eth0", 0))  # not lo, where the proxy hands over what it has decrypted
    capture.settimeout(0.5)
    seen = bytearray()

    def look() -> None:
        with contextlib.suppress(TimeoutError):
            while True:
                seen.extend(capture.recv(65536))

    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(look)
        for _ in range(6):
            with client.netns.connect(WEB, PORT) as connection:
                connection.sendall(
                    f"GET /{word} HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n".encode()
                )
                assert b"200 OK" in connection.recv(4096)
        looking.result(20)
    capture.close()
    assert len(seen) > 2000
    assert word.encode() not in seen
    assert b"HTTP/1.1" not in seen


def test_an_unmeshed_endpoint_is_served_in_plaintext(cluster: Cluster, client: Meshed) -> None:
    plain = cluster.lab.pod("old", {})
    with serving_app(plain.netns, "old", cluster.lab.log("app-old"), PORT):
        cluster.service("old", "10.96.0.11", PORT, plain)
        assert pods_of(get(client.netns, "10.96.0.11", PORT, 3)) == {"old": 3}
        assert pods_of(get(client.netns, plain.ipv4, PORT, 3)) == {"old": 3}


def test_a_pod_reaches_itself_by_its_service(cluster: Cluster, servers: list[Meshed]) -> None:
    """Over loopback, where no proxy could take the TLS off."""
    one = servers[0]
    cluster.service("own", "10.96.0.12", PORT, one.pod)
    endpoints = "lab/own:8080"
    cluster.alias(one, endpoints)
    assert pods_of(get(one.netns, "10.96.0.12", PORT, 3)) == {"web-0": 3}
    assert pods_of(get(servers[1].netns, "10.96.0.12", PORT, 3)) == {"web-0": 3}


def test_a_port_that_is_skipped_inbound_is_reached_in_plaintext(
    cluster: Cluster, client: Meshed
) -> None:
    skipping = cluster.meshed("skipping", {"config.linkerd.io/skip-inbound-ports": "8081"})
    known = replace(skipping.workload, past_the_proxy=(PortRange(8081, 8081),))
    cluster.change(lambda world: world.put_workload(known.ref, known))
    cluster.service("skipping", "10.96.0.13", 8081, skipping.pod)
    with serving(skipping.netns, web, 8081):
        assert {answer.status for answer in get(client.netns, "10.96.0.13", 8081, 3)} == {200}


@pytest.mark.parametrize("policy", ["all-authenticated", "cluster-authenticated"])
def test_a_strict_server_refuses_whoever_does_not_prove_who_it_is(
    cluster: Cluster, client: Meshed, policy: str
) -> None:
    name = policy.partition("-")[0]
    strict = cluster.meshed(f"strict-{name}", {"config.linkerd.io/default-inbound-policy": policy})
    stranger = cluster.lab.pod(f"stranger-{name}", {})
    with serving(strict.netns, web) as port:
        assert get(client.netns, strict.pod.ipv4, port)[0].status == 200
        assert get(stranger.netns, strict.pod.ipv4, port)[0].status == 403
        with stranger.netns.connect(strict.pod.ipv4, port) as connection:
            connection.sendall(b"\x00\x01\x02 not http")
            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(1) == b""


def test_deny_refuses_everybody(cluster: Cluster, client: Meshed) -> None:
    closed = cluster.meshed("closed", {"config.linkerd.io/default-inbound-policy": "deny"})
    with serving(closed.netns, web) as port:
        assert get(client.netns, closed.pod.ipv4, port)[0].status == 403


def test_ports_that_require_identity_take_nobody_without(cluster: Cluster, client: Meshed) -> None:
    key = "config.linkerd.io/proxy-require-identity-inbound-ports"
    partly = cluster.meshed("partly", {key: "8090"})
    stranger = cluster.lab.pod("stranger-partly", {})
    with serving(partly.netns, web, 8090), serving(partly.netns, web) as other:
        assert get(client.netns, partly.pod.ipv4, 8090)[0].status == 200
        assert get(stranger.netns, partly.pod.ipv4, 8090)[0].status == 403
        assert get(stranger.netns, partly.pod.ipv4, other)[0].status == 200


def test_an_identity_that_nobody_proved_is_not_passed_on(
    cluster: Cluster, servers: list[Meshed]
) -> None:
    stranger = cluster.lab.pod("liar", {})
    with stranger.netns.connect(servers[0].pod.ipv4, PORT) as connection:
        connection.sendall(
            b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n"
            b"X-Forwarded-Client-Cert: URI=spiffe://cluster.local/ns/lab/sa/admin\r\n\r\n"
        )
        answer = b""
        while chunk := connection.recv(4096):
            answer += chunk
    assert b"200 OK" in answer
    assert b"admin" not in answer


def test_a_false_identity_is_refused(cluster: Cluster, client: Meshed) -> None:
    """A pod whose certificate is another's: what the API server says of its account counts."""
    impostor = cluster.meshed("impostor", account="somebody-else")
    known = replace(impostor.workload, service_account="impostor")
    cluster.change(lambda world: world.put_workload(known.ref, known))
    with serving(impostor.netns, web) as port:
        assert get(client.netns, impostor.pod.ipv4, port)[0].status == 503
    counters = client.envoy.counters()
    failed = [name for name in counters if name.endswith("ssl.fail_verify_san") and counters[name]]
    assert failed


def test_certificates_of_another_root_are_refused_both_ways(
    cluster: Cluster, client: Meshed
) -> None:
    alien = cluster.meshed("alien")
    alien.secrets.put(Authority().secret("alien"))
    cluster.loop.call(lambda: None)
    with serving(alien.netns, web) as port:
        until(lambda: get(client.netns, alien.pod.ipv4, port)[0].status == 503)


def test_another_user_of_the_pod_gets_nothing_from_the_socket(
    cluster: Cluster, client: Meshed
) -> None:
    code = (
        "import socket; s = socket.socket(socket.AF_UNIX); s.settimeout(5);"
        "s.connect('\\0meshgraft.xds'); s.sendall(b'PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n');"
        "print(s.recv(100))"
    )
    before = len(cluster.strangers)
    argv = unprivileged(1000, "/usr/bin/env", "python3", "-c", code)
    done = subprocess.run(
        client.netns.command(*argv), capture_output=True, text=True, check=False, timeout=20
    )
    assert (
        "ConnectionResetError" in done.stderr
        or "BrokenPipe" in done.stderr
        or done.stdout == ("b''\n")
    ), (done.stdout, done.stderr, sys.version)
    assert cluster.strangers[before:] == [1000]


def test_a_destination_that_nobody_knows_is_passed_through_until_it_is_a_service(
    cluster: Cluster, client: Meshed, servers: list[Meshed]
) -> None:
    plain = cluster.lab.pod("early", {})
    with serving_app(plain.netns, "early", cluster.lab.log("app-early"), PORT):
        assert pods_of(get(client.netns, plain.ipv4, PORT, 2)) == {"early": 2}
        cluster.service("late", plain.ipv4, PORT, servers[1].pod)
        until(lambda: pods_of(get(client.netns, plain.ipv4, PORT)) == {"web-1": 1})
        cluster.change(lambda world: world.put_service(Ref("lab", "late"), None))
        until(lambda: pods_of(get(client.netns, plain.ipv4, PORT)) == {"early": 1})


def test_a_service_without_endpoints_answers_503_at_once(cluster: Cluster, client: Meshed) -> None:
    cluster.service("empty", "10.96.0.14", PORT)
    started = time.monotonic()
    assert get(client.netns, "10.96.0.14", PORT)[0].status == 503
    assert time.monotonic() - started < 2


def test_without_a_relay_what_is_known_goes_on_and_what_is_not_is_a_503(
    cluster: Cluster, client: Meshed, servers: list[Meshed]
) -> None:
    get(client.netns, WEB, PORT)
    cluster.silence("client")
    assert pods_of(get(client.netns, WEB, PORT, 10)).keys() == {"web-0", "web-1"}
    started = time.monotonic()
    assert get(client.netns, "10.96.9.9", PORT)[0].status == 503
    assert 2.5 < time.monotonic() - started < 6
    cluster.serve("client", client.netns, client.secrets)
    plain = cluster.lab.pod("after", {})
    with serving_app(plain.netns, "after", cluster.lab.log("app-after"), PORT):
        until(lambda: pods_of(get(client.netns, plain.ipv4, PORT)) == {"after": 1})


class Traffic:
    """Requests one after the other, until told to stop; what failed."""

    def __init__(self, client: Meshed, address: str, port: int) -> None:
        self.failed: list[str] = []
        self.done = 0
        self._stop = threading.Event()
        self._ask = partial(get, client.netns, address, port, 25)
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                answers = self._ask()
            except ClientError as error:
                self.failed.append(str(error))
                continue
            self.done += len(answers)
            self.failed += [str(one.status) for one in answers if one.status != 200]


def test_no_request_fails_while_everything_changes(
    cluster: Cluster, client: Meshed, servers: list[Meshed]
) -> None:
    """Endpoints, Clusters, keys and roots, and a relay that goes away and comes back."""
    pods = [each.pod for each in servers]
    with Traffic(client, WEB, PORT) as traffic:
        for turn in range(20):
            cluster.service("web", WEB, PORT, *(pods if turn % 2 else pods[turn // 2 % 2 :][:1]))
            time.sleep(0.1)
        cluster.service("web", WEB, PORT, *pods)
        for each in (*servers, client):
            account = each.workload.service_account
            secret = cluster.authority.secret(account, timedelta(minutes=30))
            cluster.loop.call(partial(each.secrets.put, secret))
            time.sleep(0.1)
        for name, each in (("client", client), ("web-0", servers[0])):
            cluster.silence(name)
            time.sleep(0.3)
            cluster.serve(name, each.netns, each.secrets)
        time.sleep(2.5)
    assert traffic.failed == []
    assert traffic.done > 100
    assert cluster.refusals == []
