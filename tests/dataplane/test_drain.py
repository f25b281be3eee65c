"""The preStop hook: clients are asked to go, nobody is cut off, outbound goes on."""

from __future__ import annotations

import subprocess
import threading
import time
from pathlib import Path

import pytest

from meshgraft.lab.envoy import container_of, running_envoy
from meshgraft.lab.netns import Netns
from meshgraft.lab.process import unprivileged
from tests.dataplane.conftest import Mesh, patched_pod
from tests.dataplane.peers import serving, web
from tests.dataplane.test_traffic import http_client

pytestmark = pytest.mark.root

DRAIN_SECONDS = 3


def asked_to_close(netns: Netns, host: str, port: int) -> bool:
    """One request: whether its answer asks the client to close the connection."""
    with http_client(netns, host, port) as client:
        client.request("GET", "/")
        response = client.getresponse()
        assert response.status == 200
        response.read()
        return response.getheader("connection") == "close"


@pytest.mark.parametrize("mesh", ["nft"], indirect=True)
def test_a_pod_that_is_told_to_stop_sends_its_clients_away_politely(
    mesh: Mesh, tmp_path: Path
) -> None:
    pod = patched_pod(values={"meshgraft": {"envoy": {"drainSeconds": DRAIN_SECONDS}}})
    leaving = mesh.lab.pod("leaving", pod["metadata"]["annotations"])
    hook = container_of(pod)["lifecycle"]["preStop"]["exec"]["command"]
    begun, answer = threading.Event(), threading.Event()

    def slow(connection: object) -> None:
        begun.set()
        assert answer.wait(20)
        web(connection)  # type: ignore[arg-type]

    with (
        running_envoy(pod, leaving.netns, tmp_path / "envoy.log"),
        serving(leaving.netns, slow) as slow_port,
        serving(leaving.netns, web) as port,
        serving(mesh.server.netns, web) as elsewhere,
        http_client(mesh.plain.netns, leaving.ipv4, slow_port) as client,
    ):
        assert not asked_to_close(mesh.plain.netns, leaving.ipv4, port)
        client.request("GET", "/")
        assert begun.wait(5)
        started = time.monotonic()
        with subprocess.Popen(
            leaving.netns.command(*unprivileged(2102, *hook)), stdout=subprocess.DEVNULL
        ) as stopping:
            while not asked_to_close(mesh.plain.netns, leaving.ipv4, port):
                assert time.monotonic() - started < DRAIN_SECONDS, "draining never began"
            assert not asked_to_close(leaving.netns, mesh.server.ipv4, elsewhere)
            answer.set()
            response = client.getresponse()
            assert (response.status, response.getheader("connection")) == (200, "close")
            response.read()
            assert stopping.wait(DRAIN_SECONDS + 10) == 0
        assert time.monotonic() - started >= DRAIN_SECONDS
        assert asked_to_close(mesh.plain.netns, leaving.ipv4, port), "late clients are served too"


@pytest.mark.parametrize("mesh", ["nft"], indirect=True)
def test_a_job_ends_with_its_application_unless_somebody_is_still_served(
    mesh: Mesh, tmp_path: Path
) -> None:
    values = {"meshgraft": {"envoy": {"drainSeconds": DRAIN_SECONDS}}}
    pod = patched_pod(values=values, restartPolicy="Never")
    job = mesh.lab.pod("job", pod["metadata"]["annotations"])
    hook = container_of(pod)["lifecycle"]["preStop"]["exec"]["command"]
    begun, answer = threading.Event(), threading.Event()

    def slow(connection: object) -> None:
        begun.set()
        assert answer.wait(20)
        web(connection)  # type: ignore[arg-type]

    def stop() -> subprocess.Popen[bytes]:
        command = job.netns.command(*unprivileged(2102, *hook))
        return subprocess.Popen(command, stdout=subprocess.DEVNULL)

    with (
        running_envoy(pod, job.netns, tmp_path / "envoy.log"),
        serving(mesh.server.netns, slow) as port,
    ):
        started = time.monotonic()
        with stop() as stopping:
            assert stopping.wait(DRAIN_SECONDS) == 0
        assert time.monotonic() - started < DRAIN_SECONDS - 1, "nobody is connected"
        with http_client(job.netns, mesh.server.ipv4, port) as client:
            client.request("GET", "/")
            assert begun.wait(5)
            with stop() as stopping:
                with pytest.raises(subprocess.TimeoutExpired):
                    stopping.wait(1)
                answer.set()
                assert client.getresponse().status == 200
                client.close()
                assert stopping.wait(DRAIN_SECONDS) == 0
