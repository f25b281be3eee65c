"""Pods and their statuses as the API server shows them, and pods' networks, for tests of repair."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from cni_plugin.pods.source import Pod
from meshgraft.lab.netns import Netns
from vocabulary.annotations.redirect import ANNOTATION, Redirect

REDIRECT = Redirect(inbound_port=4143, outbound_port=4140, proxy_uid=2102, ipv6=True)
VALIDATOR = "meshgraft-network-validator"
SOON = "soon"
"""Stands for a moment after every namespace that is made meanwhile; see `_soon`."""
RUNNING = {"running": {"startedAt": SOON}}
FAILED = {"terminated": {"exitCode": 95, "startedAt": SOON}}
PASSED = {"terminated": {"exitCode": 0, "startedAt": SOON}}
CONTROLLED = [{"controller": True}]


def at(seconds: float) -> str:
    """A time as the API server writes it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def pod_object(
    *ips: str,
    name: str = "web-0",
    state: dict[str, Any] | None = None,
    last: dict[str, Any] | None = None,
    annotations: dict[str, str] | None = None,
    spec: dict[str, Any] | None = None,
    status: dict[str, Any] | None = None,
    **meta: Any,
) -> dict[str, Any]:
    """A pod that our injector meshed, whose validator is in this state."""
    marks = {ANNOTATION: REDIRECT.to_annotation()} if annotations is None else annotations
    made: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "shop",
            "uid": f"uid-{name}",
            "annotations": marks,
            **meta,
        },
        "spec": {
            "nodeName": "n1",
            "containers": [{"name": "app"}],
            "initContainers": [{"name": VALIDATOR}],
            **(spec or {}),
        },
        "status": {
            "phase": "Pending",
            "podIPs": [{"ip": ip} for ip in ips],
            "hostIP": "10.99.99.99",
            "initContainerStatuses": [
                {"name": VALIDATOR, "state": state or RUNNING, "lastState": last or {}}
            ],
            **(status or {}),
        },
    }
    found: dict[str, Any] = json.loads(json.dumps(made).replace(f'"{SOON}"', f'"{_soon()}"'))
    return found


def _soon() -> str:
    """The pod may be made before its namespace."""
    return at(time.time() + 3)


def pod(*ips: str, **given: Any) -> Pod:
    """The same, as the agent reads it."""
    return msgspec.convert(pod_object(*ips, **given), Pod)


class Folder:
    """A folder like /run/netns, with nothing in it but what a test puts there."""

    def __init__(self, path: Path, make: Callable[[], Netns]) -> None:
        self.path = path
        self._make = make

    def network(self, *addresses: str, name: str = "") -> Netns:
        """A pod's namespace with these addresses, on a link that leads nowhere."""
        netns = self._make()
        for words in (
            ("link", "add", "eth0", "type", "veth", "peer", "name", "nobody"),
            ("link", "set", "eth0", "up"),
            ("link", "set", "nobody", "up"),
            *(("addr", "add", each, "dev", "eth0", *_flags(each)) for each in addresses),
        ):
            subprocess.run(["ip", "-n", netns.name, *words], check=True)
        (self.path / (name or netns.name)).symlink_to(netns.path)
        return netns


def _flags(address: str) -> tuple[str, ...]:
    return ("nodad",) if ":" in address else ()
