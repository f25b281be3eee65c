"""Control, identity and relay of a lab: the real processes, over a file of objects."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from injector.core.model import Namespace, Origin, Owner
from injector.core.mutate import mutate
from injector.core.values import decode_values
from injector.profiles import get_profile
from meshgraft.lab import LabError
from meshgraft.lab.lab import Lab, LabPod, has_ipv6
from meshgraft.lab.process import Process

NODE = "lab-node"
_PARTS = ("identity", "control", "relay")
_TOKENS = {
    "control": "meshgraft/meshgraft-control/anywhere",
    "relay": f"linkerd-cni/linkerd-cni/{NODE}",
}
Object = dict[str, Any]


class LabMesh:
    """The mesh's three processes, and the objects that they know."""

    def __init__(self, stack: contextlib.ExitStack, lab: Lab) -> None:
        """Start all three; ``stack`` ends them."""
        self._lab = lab
        self._objects: dict[tuple[str, str], Object] = {}
        self.objects = lab.folder / "objects.json"
        self.roots = lab.folder / "roots.pem"
        self.cache = lab.folder / "cache"
        self.cache.mkdir()
        for part, token in _TOKENS.items():
            (lab.folder / f"token-{part}").write_text(token)
        self._ports: dict[str, int] = {}
        self.processes: dict[str, Process] = {}
        stack.callback(self.stop)
        self._write()
        for part in _PARTS:
            self.start(part)

    # The processes

    def start(self, part: str) -> None:
        """Start one of the three, at the address that it had before."""
        process = self.processes[part] = Process(
            part,
            [sys.executable, "-m", "meshgraft", part, *self._flags(part)],
            self._lab.log(part),
            env={k: v for k, v in os.environ.items() if k != "KUBERNETES_SERVICE_HOST"},
        )
        if part == "relay":
            listens = self._lab.relay_socket.exists
            process.wait_for(lambda: True if listens() else None, "its socket")
        else:
            self._ports[part] = process.wait_for(lambda: self._port(part), "its address")

    def kill(self, part: str) -> None:
        """End one of the three at once, without a chance to clean up (SIGKILL)."""
        self.processes[part].kill(9)
        self.processes[part].wait()

    def stop(self) -> None:
        """End all three."""
        for process in reversed(self.processes.values()):
            process.stop()

    def _flags(self, part: str) -> list[str]:
        shared = ["--roots-file", str(self.roots), "--log-level", "info"]
        listen = f"127.0.0.1:{self._ports.get(part, 0)}"
        offline = ["--offline-objects", str(self.objects), "--listen", listen]
        token = self._lab.folder / f"token-{part}"
        identity = ["--token-file", str(token), "--identity", self._at("identity")]
        if part == "identity":
            return [*shared, *offline, "--metrics-listen", "127.0.0.1:0"]
        if part == "control":
            return [
                *(*shared, *offline, *identity),
                *("--identity-name", "localhost", "--metrics-listen", "127.0.0.1:0"),
            ]
        return [
            *(*shared, *identity, "--identity-name", "localhost"),
            *("--control", self._at("control"), "--control-name", "localhost"),
            *("--agent-socket", str(self._lab.relay_socket), "--cache-dir", str(self.cache)),
        ]

    def _at(self, part: str) -> str:
        return f"127.0.0.1:{self._ports.get(part, 1)}"

    def _port(self, part: str) -> int | None:
        found = re.search(r'"address":\["127\.0\.0\.1",\s*(\d+)\]', self._log(part))
        return int(found[1]) if found else None

    def _log(self, part: str) -> str:
        return self._lab.log(part).read_text().replace(" ", "")

    # The objects

    def put(self, *objects: Object) -> None:
        """Make the objects known, in place of those of their names."""
        for each in objects:
            self._objects[each["kind"], each["metadata"]["name"]] = each
        self._write()

    def remove(self, kind: str, name: str) -> None:
        """Take one away."""
        del self._objects[kind, name]
        self._write()

    def _write(self) -> None:
        text = json.dumps({"kind": "List", "items": list(self._objects.values())})
        with tempfile.NamedTemporaryFile("w", dir=self._lab.folder, delete=False) as file:
            file.write(text)
        Path(file.name).replace(self.objects)


def pod_object(pod: LabPod, patched: Mapping[str, Any], uid: str, account: str) -> Object:
    """The pod as the API server has it, once it runs."""
    meta = {**patched["metadata"], "name": pod.name, "namespace": "lab", "uid": uid}
    spec = {**patched["spec"], "nodeName": NODE, "serviceAccountName": account}
    status = {"phase": "Running", "podIPs": [{"ip": address} for address in pod.addresses]}
    return {"kind": "Pod", "metadata": meta, "spec": spec, "status": status}


def service_objects(
    name: str, addresses: Sequence[str], port: int, pods: Sequence[LabPod]
) -> list[Object]:
    """A Service, and the EndpointSlice of each family that it has an address of."""
    meta = {"name": name, "namespace": "lab"}
    ports = [{"name": "main", "port": port, "protocol": "TCP"}]
    spec = {"clusterIP": addresses[0], "clusterIPs": list(addresses), "ports": ports}
    found: list[Object] = [{"kind": "Service", "metadata": meta, "spec": spec}]
    for family in ("IPv4", "IPv6"):
        six = family == "IPv6"
        if any((":" in address) == six for address in addresses):
            endpoints = [{"addresses": [pod.ipv6 if six else pod.ipv4]} for pod in pods]
            labels = {"kubernetes.io/service-name": name}
            found.append(
                {
                    "kind": "EndpointSlice",
                    "metadata": {**meta, "name": f"{name}-{family.lower()}", "labels": labels},
                    "addressType": family,
                    "ports": ports,
                    "endpoints": endpoints,
                }
            )
    return found


def meshed_pod(
    annotations: Mapping[str, str] | None = None, values: Mapping[str, Any] | None = None
) -> Object:
    """A pod as the injector leaves it, in the mesh."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "app", "annotations": dict(annotations or {})},
        "spec": {"containers": [{"name": "app", "image": "app"}]},
    }
    settings = {
        "cniEnabled": True,
        "disableIPv6": not has_ipv6(),
        "meshgraft": {"mesh": {"enabled": True}},
        **(values or {}),
    }
    outcome = mutate(
        pod,
        Namespace("lab", {"linkerd.io/inject": "enabled"}),
        Owner("pod", "app"),
        decode_values(settings),
        get_profile("envoy"),
        Origin("lab", additions=True),
    )
    if not outcome.injected:
        raise LabError(f"the pod was not injected: {', '.join(outcome.warnings)}")
    return outcome.patched
