"""``POST /shutdown``: the application of a Job ends its proxy, and nobody else does."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshgraft.lab.envoy import running_envoy
from tests.dataplane.conftest import Mesh, patched_pod
from tests.dataplane.test_traffic import http_client

pytestmark = pytest.mark.root


@pytest.mark.parametrize("mesh", ["nft"], indirect=True)
def test_who_is_in_the_pod_ends_the_proxy_and_is_answered(mesh: Mesh, tmp_path: Path) -> None:
    pod = patched_pod({"config.linkerd.io/proxy-admin-shutdown": "enabled"})
    done = mesh.lab.pod("done", pod["metadata"]["annotations"])

    def asked(method: str, *, from_within: bool) -> tuple[int, str]:
        netns, host = (done.netns, "127.0.0.1") if from_within else (mesh.plain.netns, done.ipv4)
        with http_client(netns, host, 4191) as client:
            client.request(method, "/shutdown")
            response = client.getresponse()
            return response.status, response.read().decode()

    with running_envoy(pod, done.netns, tmp_path / "envoy.log") as envoy:
        assert asked("POST", from_within=False) == (403, "only from within the pod\n")
        assert asked("GET", from_within=True)[0] == 404
        assert envoy.get(4191, "/ready")[0] == 200
        assert asked("POST", from_within=True) == (200, "shutdown\n")
        assert envoy.process.wait(10) == 0
