"""What the mesh does for traffic, with real Envoys."""

from __future__ import annotations

import pytest

from meshgraft.lab.apps import get, serving_app
from tests.mesh.dataplane.conftest import Cluster, Meshed, until

WEB, PORT = "10.96.0.10", 8080


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


def test_requests_to_a_service_are_balanced_and_both_ends_are_proven(
    cluster: Cluster, client: Meshed, servers: list[Meshed]
) -> None:
    before = [each.envoy.counters()["listener.inbound.ssl.handshake"] for each in servers]
    answers = get(client.netns, WEB, PORT, count=40)
    assert {answer.status for answer in answers} == {200}
    after = [each.envoy.counters()["listener.inbound.ssl.handshake"] for each in servers]
    assert all(now > then for now, then in zip(after, before, strict=True))
    assert cluster.refusals == []
    until(lambda: True)
