"""The real control, identity, relay and agent, with real Envoys; each is killed and comes back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from meshgraft.lab.apps import get, serving_app
from meshgraft.lab.envoy import Envoy, running_envoy
from meshgraft.lab.lab import Lab, LabPod, running_lab
from meshgraft.lab.mesh import LabMesh, meshed_pod, pod_object, service_objects
from tests.mesh.dataplane.conftest import until
from tests.mesh.dataplane.test_mesh import Traffic, pods_of

WEB, PORT = "10.96.0.10", 8080


class Setup:
    """A lab with a client and two servers, all in the mesh."""

    def __init__(self, stack: ExitStack) -> None:
        self.stack = stack
        self.lab: Lab = stack.enter_context(running_lab(mesh=True))
        self.mesh = LabMesh(stack, self.lab)
        self.envoys: dict[str, Envoy] = {}
        self.pods: dict[str, LabPod] = {}
        for name in ("client", "web-0", "web-1"):
            self.meshed(name)
        servers = [self.pods[name] for name in ("web-0", "web-1")]
        for each in servers:
            log = self.lab.log(f"app-{each.name}")
            stack.enter_context(serving_app(each.netns, each.name, log, PORT))
        self.mesh.put(*service_objects("web", [WEB], PORT, servers))
        self.netns = self.pods["client"].netns
        until(lambda: pods_of(get(self.netns, WEB, PORT)).keys() <= {"web-0", "web-1"})

    def meshed(self, name: str) -> LabPod:
        patched = meshed_pod()
        uid = f"uid-{name}"
        pod = self.lab.pod(name, patched["metadata"]["annotations"], uid=uid)
        self.mesh.put(pod_object(pod, patched, uid, name))
        self.pods[name] = pod
        self.envoys[name] = self.stack.enter_context(
            running_envoy(patched, pod.netns, self.lab.log(f"envoy-{name}"))
        )
        return pod


@pytest.fixture(scope="module")
def setup(_machine: None) -> Iterator[Setup]:
    with ExitStack() as stack:
        yield Setup(stack)


def test_requests_are_balanced_and_both_ends_are_proven(setup: Setup) -> None:
    answers = get(setup.netns, WEB, PORT, 20)
    assert pods_of(answers).keys() == {"web-0", "web-1"}
    proof = answers[0].body["headers"]["x-forwarded-client-cert"]
    assert "URI=spiffe://cluster.local/ns/lab/sa/client" in proof


def test_a_change_of_endpoints_is_followed(setup: Setup) -> None:
    setup.mesh.put(*service_objects("web", [WEB], PORT, [setup.pods["web-0"]]))
    until(lambda: pods_of(get(setup.netns, WEB, PORT, 4)) == {"web-0": 4})
    servers = [setup.pods["web-0"], setup.pods["web-1"]]
    setup.mesh.put(*service_objects("web", [WEB], PORT, servers))
    until(lambda: pods_of(get(setup.netns, WEB, PORT, 8)).keys() == {"web-0", "web-1"})


@pytest.mark.parametrize("part", ["control", "identity", "relay"])
def test_no_request_fails_while_a_part_is_killed_and_comes_back(setup: Setup, part: str) -> None:
    get(setup.netns, WEB, PORT)

    class Client:
        netns = setup.netns

    with Traffic(Client(), WEB, PORT) as traffic:  # type: ignore[arg-type]
        setup.mesh.kill(part)
        time.sleep(1.5)
        setup.mesh.start(part)
        time.sleep(2.5)
    assert traffic.failed == []
    assert traffic.done > 50


def test_a_new_destination_is_found_after_all_that(setup: Setup) -> None:
    setup.mesh.put(*service_objects("again", ["10.96.0.20"], PORT, [setup.pods["web-1"]]))
    until(lambda: pods_of(get(setup.netns, "10.96.0.20", PORT)) == {"web-1": 1}, 15)


def test_a_pod_that_starts_while_control_is_away_gets_what_its_node_knows(setup: Setup) -> None:
    get(setup.netns, WEB, PORT)
    setup.mesh.kill("control")
    try:
        late = setup.meshed("late")
        assert pods_of(get(late.netns, WEB, PORT, 10)).keys() == {"web-0", "web-1"}
    finally:
        setup.mesh.start("control")


def test_a_relay_that_starts_anew_while_control_is_away_serves_from_disk(setup: Setup) -> None:
    get(setup.netns, WEB, PORT)
    time.sleep(2.5)  # the cache is written every two seconds
    setup.mesh.kill("control")
    setup.mesh.kill("relay")
    setup.mesh.start("relay")
    try:
        later = setup.meshed("later")
        assert pods_of(get(later.netns, WEB, PORT, 10)).keys() == {"web-0", "web-1"}
    finally:
        setup.mesh.start("control")


def test_nothing_secret_is_on_disk(setup: Setup) -> None:
    for path in setup.mesh.cache.iterdir():
        assert b"PRIVATE KEY" not in path.read_bytes()


def test_a_pod_that_is_gone_lets_its_network_namespace_go(setup: Setup) -> None:
    patched = meshed_pod()
    pod = setup.lab.pod("brief", patched["metadata"]["annotations"], uid="uid-brief")
    setup.mesh.put(pod_object(pod, patched, "uid-brief", "brief"))
    until(lambda: "lab/brief" in setup.lab.log("relay").read_text())
    setup.lab.remove(pod)

    def is_gone() -> bool:
        lines = setup.lab.log("relay").read_text().splitlines()
        return any("pod is gone" in line and "uid-brief" in line for line in lines)

    until(is_gone, 20)
