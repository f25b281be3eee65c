"""The image's containers on a containerd of the tests' own, confined as the charts confine them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chain.containerd import Containerd
from tests.chain.cri import ContainerSpec, PodSpec
from tests.chain.protobuf import Message
from tests.images.conftest import IMAGE

_SECCOMP = 15
"""The field of a LinuxContainerSecurityContext; an empty profile is RuntimeDefault."""

NETWORK: dict[str, Any] = {
    "cniVersion": "1.0.0",
    "name": "image",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "isDefaultGateway": True,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.217.0.0/24"}]]},
        }
    ],
}


@dataclass(frozen=True, slots=True)
class Confined(ContainerSpec):
    """A container with a read-only root, no capability but those named, and RuntimeDefault."""

    def message(self) -> Message:
        message = ContainerSpec.message(self)
        security = dict(message)[15]
        assert isinstance(security, list)
        (_, context) = security[0]
        assert isinstance(context, list)
        context.append((_SECCOMP, []))
        return message


@dataclass(frozen=True, slots=True)
class Pod:
    """A running pod, in which containers of the image are started."""

    containerd: Containerd
    spec: PodSpec
    pod_id: str

    @property
    def address(self) -> str:
        """The pod's IPv4 address."""
        return self.containerd.cri.pod_addresses(self.pod_id)[0]

    def start(self, *args: str, **settings: Any) -> str:
        """Start a container of the image with these arguments; gives its id."""
        container = Confined(IMAGE, args=args, **settings)
        return self.containerd.cri.start_container(self.pod_id, self.spec, container)

    def run(self, *args: str, **settings: Any) -> tuple[int, str]:
        """Run one that ends by itself; gives its exit code and what it printed."""
        settings = {"name": next(iter(args), "app"), **settings}
        code = self.containerd.wait_for_exit(self.start(*args, **settings))
        return code, self.log(settings["name"])

    def log(self, name: str) -> str:
        """What a container printed, without the runtime's own prefix."""
        lines = Path(self.spec.log_directory, f"{name}.log").read_text().splitlines()
        return "\n".join(line.split(" ", 3)[3] for line in lines)


@contextlib.contextmanager
def running_pod(containerd: Containerd, name: str) -> Iterator[Pod]:
    """A pod for the length of the block."""
    spec = containerd.pod_spec(name)
    with containerd.running_pod(spec) as pod_id:
        yield Pod(containerd, spec, pod_id)


def python(code: str) -> Sequence[str]:
    """The command that runs a little Python in the image."""
    return ["python", "-I", "-c", code]
