"""The mesh at work: its processes over a file of objects, real Envoys, real packets."""

from __future__ import annotations

import contextlib
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from meshgraft.demo.report import Report
from meshgraft.lab.apps import Answer, ClientError, get, serving_app
from meshgraft.lab.envoy import Envoy, running_envoy
from meshgraft.lab.lab import Lab, LabPod, running_lab
from meshgraft.lab.mesh import LabMesh, meshed_pod, pod_object, service_objects

T = TypeVar("T")

WEB, SERVICE, OLD = 8080, "10.96.0.10", "10.96.0.11"
_REQUESTS = 20
_WORD = "hunter2-in-plain-sight"
_PATIENCE = 10.0
_STRICT = {"config.linkerd.io/default-inbound-policy": "all-authenticated"}


@dataclass
class Scene:
    """Pods of the mesh, one that is not, and what they all know of each other."""

    report: Report
    lab: Lab
    mesh: LabMesh
    stack: contextlib.ExitStack
    pods: dict[str, LabPod] = field(default_factory=dict)
    envoys: dict[str, Envoy] = field(default_factory=dict)
    objects: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, name: str, annotations: dict[str, str] | None = None) -> LabPod:
        """A pod of the mesh with a server in it, ready."""
        patched, uid = meshed_pod(annotations), f"uid-{name}"
        pod = self.pods[name] = self.lab.pod(name, patched["metadata"]["annotations"], uid=uid)
        self.objects[name] = pod_object(pod, patched, uid, name)
        self.mesh.put(self.objects[name])
        running = running_envoy(patched, pod.netns, self.lab.log(f"envoy-{name}"))
        self.envoys[name] = self.stack.enter_context(running)
        self.serve(pod)
        return pod

    def serve(self, pod: LabPod) -> None:
        """An HTTP server in a pod."""
        log = self.lab.log(f"app-{pod.name}")
        self.stack.enter_context(serving_app(pod.netns, pod.name, log, WEB))


def show_mesh(report: Report, mode: Literal["auto", "nft", "legacy"]) -> None:
    """Part six: who is who, and nobody else can read it."""
    report.step("6. The mesh: control, identity and relay, and proxies that ask them")
    with running_lab(mode, mesh=True) as lab, _scene(report, lab) as scene:
        _show_balance(scene)
        _show_wire(scene)
        _show_plain(scene)
        _show_strict(scene)
        _show_false_identity(scene)
        _show_failure(scene)


@contextlib.contextmanager
def _scene(report: Report, lab: Lab) -> Iterator[Scene]:
    with contextlib.ExitStack() as stack:
        scene = Scene(report, lab, LabMesh(stack, lab), stack)
        report.say("control, identity and relay run; the agent hands them pods' sockets")
        for name in ("client", "web-0", "web-1"):
            pod = scene.add(name)
            report.say(f"pod {name} has {pod.ipv4}, a certificate, and its proxy is ready")
        servers = [scene.pods[name] for name in ("web-0", "web-1")]
        scene.mesh.put(*service_objects("web", [SERVICE], WEB, servers))
        yield scene


def _until(ask: Callable[[], T], good: Callable[[T], bool]) -> T:
    """What is asked for, once it is good; the last there was, where that takes too long."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        found = ask()
        if good(found) or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


def _ask(scene: Scene, name: str, host: str, count: int = _REQUESTS) -> Counter[str]:
    """Who answered, or with which status nobody did."""
    try:
        answers: list[Answer] = get(scene.pods[name].netns, host, WEB, count)
    except ClientError:
        return Counter({"no answer": count})
    return Counter(str(one.body.get("pod") or one.status) for one in answers)


def _words(seen: Counter[str]) -> str:
    return ", ".join(f"{count} by {who}" for who, count in sorted(seen.items()))


def _handshakes(scene: Scene) -> dict[str, int]:
    servers = ("web-0", "web-1")
    found = {
        name: scene.envoys[name].counters()["listener.inbound.ssl.handshake"] for name in servers
    }
    client = scene.envoys["client"].counters()
    found["client"] = sum(
        count for name, count in client.items() if name == "cluster.lab/web_8080.ssl.handshake"
    )
    return found


def _show_balance(scene: Scene) -> None:
    both = {"web-0", "web-1"}
    seen = _until(lambda: _ask(scene, "client", SERVICE), lambda found: found.keys() == both)
    scene.report.prove(
        f"requests to the Service's address {SERVICE} are balanced over both its pods",
        seen.keys() == both,
        _words(seen),
    )
    counted = _handshakes(scene)
    scene.report.prove(
        "client and servers have proven to each other who they are (mTLS, TLS 1.3)",
        all(counted.values()),
        "handshakes: " + ", ".join(f"{count} at {who}" for who, count in counted.items()),
    )


def _show_wire(scene: Scene) -> None:
    """What passes the client's end of its cable, while it sends a word that is easy to find."""
    with scene.pods["client"].netns.entered():
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    wire.bind(("eth0", 0))
    wire.settimeout(0.5)
    seen, answered = bytearray(), 0

    def look() -> None:
        with contextlib.suppress(TimeoutError):
            while True:
                seen.extend(wire.recv(65536))

    with wire, ThreadPoolExecutor(1) as pool:
        looking = pool.submit(look)
        for _ in range(6):
            with scene.pods["client"].netns.connect(SERVICE, WEB) as connection:
                head = f"GET /{_WORD} HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n"
                connection.sendall(head.encode())
                answered += b"200 OK" in connection.recv(4096)
        looking.result()
    found = seen.count(_WORD.encode()) + seen.count(b"HTTP/1.1")
    scene.report.prove(
        "on the wire nothing of it can be read",
        answered == 6 and len(seen) > 2000 and not found,
        f"{len(seen)} bytes captured during {answered} answered requests; found {found} times",
    )


def _show_plain(scene: Scene) -> None:
    plain = scene.pods["old"] = scene.lab.pod("old", {})
    scene.serve(plain)
    scene.mesh.put(*service_objects("old", [OLD], WEB, [plain]))
    seen = _until(lambda: _ask(scene, "client", OLD, 5), lambda found: found == {"old": 5})
    scene.report.prove(
        "an endpoint without a proxy is served in plaintext", seen == {"old": 5}, _words(seen)
    )


def _show_strict(scene: Scene) -> None:
    strict = scene.add("strict", _STRICT)
    ours = _until(
        lambda: _ask(scene, "client", strict.ipv4, 5), lambda found: found == {"strict": 5}
    )
    theirs = _ask(scene, "old", strict.ipv4, 5)
    scene.report.prove(
        "a server with the policy all-authenticated takes the mesh, and refuses plaintext",
        ours == {"strict": 5} and theirs == {"403": 5},
        f"from the mesh: {_words(ours)}; from a pod without a proxy: {_words(theirs)}",
    )


def _show_false_identity(scene: Scene) -> None:
    """The pod's certificate says who it was; the API server says now that it is somebody else."""
    false = scene.add("false")
    other = scene.objects["false"]
    scene.mesh.put({**other, "spec": {**other["spec"], "serviceAccountName": "somebody-else"}})
    seen = _until(lambda: _ask(scene, "client", false.ipv4, 1), lambda found: found == {"503": 1})
    scene.report.prove(
        "a server whose certificate is another's than the one to be expected is refused",
        seen == {"503": 1},
        _words(seen),
    )


def _show_failure(scene: Scene) -> None:
    scene.mesh.kill("control")
    seen = _ask(scene, "client", SERVICE)
    scene.report.prove(
        "with control killed, traffic goes on",
        seen.keys() == {"web-0", "web-1"} and seen.total() == _REQUESTS,
        _words(seen),
    )
    scene.mesh.start("control")
