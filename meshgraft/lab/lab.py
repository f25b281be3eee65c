"""`Lab`: one pretended node with the real bridge plugin, our agent and program, and its pods."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from meshgraft.lab.chain import ANNOTATIONS_CAPABILITY, Attachment, Chain, PluginRun
from meshgraft.lab.netns import RUN_NETNS, Netns
from meshgraft.lab.process import Process

PREFIX = "mglab"
CNI_PATHS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"))
GATEWAY = "10.213.0.1"
GATEWAY6 = "fd00:213::1"


@dataclass
class LabPod:
    """A pod's network: its namespace, its addresses, and how the chain made it."""

    name: str
    netns: Netns
    attachment: Attachment
    result: dict[str, Any]
    runs: list[PluginRun]

    @property
    def addresses(self) -> list[str]:
        """The pod's addresses, without prefix length, in the order of the CNI result."""
        return [ip["address"].partition("/")[0] for ip in self.result["ips"]]

    @property
    def ipv4(self) -> str:
        """The pod's IPv4 address."""
        return next(address for address in self.addresses if ":" not in address)

    @property
    def ipv6(self) -> str:
        """The pod's IPv6 address."""
        return next(address for address in self.addresses if ":" in address)

    @property
    def cni_run(self) -> PluginRun:
        """What ``linkerd-cni`` did."""
        return next(run for run in self.runs if run.plugin == "linkerd-cni")


class Lab:
    """A node's namespace with a bridge, the agent, and the pods that were attached so far."""

    def __init__(
        self, stack: contextlib.ExitStack, folder: Path, mode: str, *, mesh: bool = False
    ) -> None:
        """Make the node and start the agent; ``stack`` takes both away. With ``mesh`` the agent
        opens the sockets of a relay, which listens at `relay_socket`."""
        self.relay_socket = folder / "relay.sock"
        relay = self.relay_socket if mesh else None
        self._stack = stack
        self.folder = folder
        self.node = self._namespace("node")
        self.socket = folder / "agent.sock"
        self.agent = Process(
            "cni-agent",
            [
                *(sys.executable, "-m", "meshgraft", "cni-agent"),
                *("--socket", str(self.socket)),
                *("--iptables-mode", mode),
                *("--metrics-listen", "127.0.0.1:0"),
                *(("--relay-socket", str(relay)) if relay else ()),
            ],
            folder / "agent.log",
            # In a pod (a CI runner's) the agent would ask that cluster about pretended pods.
            env={k: v for k, v in os.environ.items() if k != "KUBERNETES_SERVICE_HOST"},
        )
        stack.callback(self.agent.stop)
        self.agent.wait_for(lambda: True if self.socket.exists() else None, "its socket")
        self.chain = Chain(
            conflist(folder),
            [Path(sys.executable).parent, *CNI_PATHS],
            self.node,
            {"LINKERD_CNI_SOCKET": str(self.socket)},
        )

    def pod(
        self,
        name: str,
        annotations: Mapping[str, str] | None,
        *,
        namespace: str = "lab",
        uid: str = "",
    ) -> LabPod:
        """Attach a pod that carries these annotations to the network, as a runtime does.

        Raises:
            PluginError: a plugin of the chain refused.
        """
        netns = self._namespace(name)
        attachment = Attachment(
            container_id=uuid.uuid4().hex,
            netns=netns.path,
            pod_namespace=namespace,
            pod_name=name,
            annotations=annotations,
            pod_uid=uid,
        )
        result, runs = self.chain.add(attachment)
        self._stack.callback(self.chain.delete, attachment, result)
        return LabPod(name, netns, attachment, result, runs)

    def remove(self, pod: LabPod) -> None:
        """Take a pod away before the lab's end, as a runtime does: DEL, and its namespace."""
        self.chain.delete(pod.attachment, pod.result)
        pod.netns.close()

    def log(self, name: str) -> Path:
        """Where a program of the lab may write its log."""
        return self.folder / f"{name}.log"

    def _namespace(self, name: str) -> Netns:
        netns = Netns(f"{PREFIX}-{os.getpid()}-{uuid.uuid4().hex[:6]}-{name}")
        self._stack.callback(netns.close)
        return netns


@contextlib.contextmanager
def running_lab(
    mode: Literal["auto", "nft", "legacy"] = "auto", *, mesh: bool = False
) -> Iterator[Lab]:
    """A lab for the length of the block; all of it is taken away again, also upon an error."""
    sweep()
    with contextlib.ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="meshgraft-lab-"))
        stack.callback(shutil.rmtree, folder)
        yield Lab(stack, folder, mode, mesh=mesh)


def sweep() -> None:
    """Take away what labs left behind that were killed before they could do it themselves."""
    if not RUN_NETNS.is_dir():
        return
    for path in RUN_NETNS.iterdir():
        match = re.match(rf"{PREFIX}-(\d+)-", path.name)
        if match and not Path("/proc", match[1]).exists():
            subprocess.run(["ip", "netns", "del", path.name], check=False, capture_output=True)


def missing_requirements() -> list[str]:
    """What the lab needs and this machine has not, each as a sentence; empty where all is there."""
    missing = []
    if os.geteuid() != 0:
        missing.append("root: network namespaces and their rules need it")
    for program in ("ip", "nsenter", "setpriv"):
        if shutil.which(program) is None:
            missing.append(f"the program {program} (packages iproute2, util-linux)")
    for plugin in ("bridge", "host-local"):
        if not any((folder / plugin).exists() for folder in CNI_PATHS):
            missing.append(f"the CNI plugin {plugin} (package containernetworking-plugins)")
    if not (Path(sys.executable).parent / "linkerd-cni").exists():
        missing.append("the program linkerd-cni (scripts/build-cni makes it)")
    return missing


def has_ipv6() -> bool:
    """Whether this kernel has IPv6, and new namespaces may use it."""
    disabled = Path("/proc/sys/net/ipv6/conf/default/disable_ipv6")
    return disabled.exists() and disabled.read_text().strip() == "0"


def conflist(folder: Path) -> dict[str, Any]:
    """The network as an operator's net.d has it after our installer was there."""
    ranges = [[{"subnet": "10.213.0.0/24", "gateway": GATEWAY}]]
    if has_ipv6():
        ranges.append([{"subnet": "fd00:213::/64", "gateway": GATEWAY6}])
    return {
        "cniVersion": "1.0.0",
        "name": "lab",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": True,
                "isDefaultGateway": True,
                "hairpinMode": True,
                "ipam": {
                    "type": "host-local",
                    "dataDir": str(folder / "ipam"),
                    "ranges": ranges,
                },
            },
            {
                "type": "linkerd-cni",
                "log_level": "info",
                "capabilities": {ANNOTATIONS_CAPABILITY: True},
                "linkerd": {
                    "incoming-proxy-port": 4143,
                    "outgoing-proxy-port": 4140,
                    "proxy-uid": 2102,
                    "inbound-ports-to-ignore": ["4191", "4190"],
                },
            },
        ],
    }
