"""A client of the CRI, the interface by which the kubelet asks a runtime for pods and containers.

Unary gRPC over HTTP/2 on a Unix socket; the field numbers are those of cri-api's v1 ``api.proto``.
"""

from __future__ import annotations

import json
import struct
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

import httpx

from tests.chain.protobuf import Decoded, Message, decode, encode, texts

_FRAME = struct.Struct("!BI")


class CriError(Exception):
    """The runtime refused a call. ``status`` is gRPC's code, the text is the runtime's."""

    def __init__(self, method: str, status: int, message: str) -> None:
        self.status = status
        super().__init__(f"{method}: gRPC status {status}: {message}")


@dataclass(frozen=True, slots=True)
class PodSpec:
    """What the kubelet tells the runtime of a pod."""

    name: str
    namespace: str = "shop"
    annotations: Mapping[str, str] = field(default_factory=dict)
    uid: str = field(default_factory=lambda: str(uuid.uuid4()))
    host_ports: Mapping[int, int] = field(default_factory=dict)
    """TCP ports of the node, each with the port in the pod that it leads to."""
    cgroup_parent: str = ""
    log_directory: str = ""

    def message(self) -> Message:
        """A ``PodSandboxConfig``."""
        return [
            (1, [(1, self.name), (2, self.uid), (3, self.namespace)]),
            (2, self.name),
            (3, self.log_directory),
            *((5, [(2, to), (3, port)]) for port, to in self.host_ports.items()),
            *((7, entry) for entry in texts(self.annotations.items())),
            (8, [(1, self.cgroup_parent)]),
        ]


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """What the kubelet tells the runtime of a container."""

    image: str
    name: str = "app"
    command: Sequence[str] = ()
    args: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    mounts: Mapping[str, tuple[Path, bool]] = field(default_factory=dict)
    """By path in the container: path on the host, and whether it is read-only."""
    add_capabilities: Sequence[str] = ()
    """Names without ``CAP_``; all others are dropped."""
    uid: int | None = None
    read_only: bool = True

    def message(self) -> Message:
        """A ``ContainerConfig``."""
        capabilities = [(2, "ALL"), *((1, name) for name in self.add_capabilities)]
        user: Message = [] if self.uid is None else [(5, [(1, self.uid)])]
        security: Message = [(1, capabilities), *user, (7, int(self.read_only)), (11, 1)]
        return [
            (1, [(1, self.name)]),
            (2, [(1, self.image)]),
            *((3, word) for word in self.command),
            *((4, word) for word in self.args),
            *((6, entry) for entry in texts(self.env.items())),
            *((7, _mount(inside, *outside)) for inside, outside in self.mounts.items()),
            (11, f"{self.name}.log"),
            (15, [(2, security)]),
        ]


def _mount(inside: str, outside: Path, read_only: bool) -> Message:
    return [(1, inside), (2, str(outside)), (3, int(read_only))]


@dataclass(frozen=True, slots=True)
class Executed:
    """What a program printed that was run in a container."""

    exit_code: int
    stdout: str
    stderr: str


class Cri:
    """The runtime behind a socket; `close` it in the end."""

    def __init__(self, socket: Path, timeout: float = 60.0) -> None:
        """``timeout`` is for one call, in seconds."""
        self._client = httpx.Client(
            transport=httpx.HTTPTransport(uds=str(socket), http1=False, http2=True),
            base_url="http://containerd",
            timeout=timeout,
            headers={"Content-Type": "application/grpc", "TE": "trailers"},
        )

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def conditions(self) -> dict[str, tuple[bool, str]]:
        """``RuntimeReady`` and ``NetworkReady``: whether, and why not."""
        found = {}
        for raw in _message(self.call("Status", []), 1).get(1, []):
            condition = decode(_bytes(raw))
            found[_text(condition, 1)] = (bool(condition.get(2, [0])[0]), _text(condition, 4))
        return found

    def run_pod(self, pod: PodSpec) -> str:
        """Make a pod's sandbox, for which the runtime calls the CNI plugins; gives its id.

        Raises:
            CriError: no sandbox; where a plugin refused, with the plugin's message.
        """
        return _text(self.call("RunPodSandbox", [(1, pod.message())]), 1)

    def pod_addresses(self, pod_id: str) -> list[str]:
        """The pod's addresses, as the CNI result had them."""
        status = _message(self.call("PodSandboxStatus", [(1, pod_id)]), 1)
        network = _message(status, 5)
        more = [_text(decode(_bytes(raw)), 1) for raw in network.get(2, [])]
        return [_text(network, 1), *more]

    def netns_path(self, pod_id: str) -> Path:
        """The pod's network namespace, where the runtime keeps it."""
        answer = self.call("PodSandboxStatus", [(1, pod_id), (2, 1)])
        entries = [decode(_bytes(raw)) for raw in answer[2]]
        info = json.loads(next(_text(entry, 2) for entry in entries if _text(entry, 1) == "info"))
        namespaces = info["runtimeSpec"]["linux"]["namespaces"]
        return Path(next(item["path"] for item in namespaces if item["type"] == "network"))

    def remove_pod(self, pod_id: str) -> None:
        """End the pod (its containers, CNI DEL) and forget it."""
        self.call("StopPodSandbox", [(1, pod_id)])
        self.call("RemovePodSandbox", [(1, pod_id)])

    def start_container(self, pod_id: str, pod: PodSpec, container: ContainerSpec) -> str:
        """Make and start a container in the pod; gives its id."""
        message: Message = [(1, pod_id), (2, container.message()), (3, pod.message())]
        container_id = _text(self.call("CreateContainer", message), 1)
        self.call("StartContainer", [(1, container_id)])
        return container_id

    def execute(self, container_id: str, *command: str, timeout: int = 30) -> Executed:
        """Run a program in a running container. ``timeout`` is in seconds."""
        answer = self.call(
            "ExecSync", [(1, container_id), *((2, word) for word in command), (3, timeout)]
        )
        code = answer.get(3, [0])[0]
        assert isinstance(code, int)
        return Executed(code, _text(answer, 1), _text(answer, 2))

    def exit_code(self, container_id: str) -> int | None:
        """The container's exit code; None while it runs."""
        status = _message(self.call("ContainerStatus", [(1, container_id)]), 1)
        if not status.get(6, [0])[0]:  # finished_at
            return None
        code = status.get(7, [0])[0]
        assert isinstance(code, int)
        return code

    def stop_container(self, container_id: str, grace: int = 5) -> None:
        """SIGTERM, and SIGKILL after ``grace`` seconds."""
        self.call("StopContainer", [(1, container_id), (2, grace)])

    def has_image(self, name: str) -> bool:
        """Whether containers can be made of an image; one just imported takes a moment."""
        answer = self.call("ImageStatus", [(1, [(1, name)])], service="ImageService")
        return 1 in answer

    def call(self, method: str, message: Message, service: str = "RuntimeService") -> Decoded:
        """One call of the CRI.

        Raises:
            CriError: it was refused.
        """
        body = encode(message)
        answer = self._client.post(
            f"/runtime.v1.{service}/{method}", content=_FRAME.pack(0, len(body)) + body
        )
        # A refusal is a response of headers alone; after a message the status, in a trailer, is 0.
        status = int(answer.headers.get("grpc-status", "0"))
        if answer.status_code != 200 or status != 0 or len(answer.content) < _FRAME.size:
            text = unquote(answer.headers.get("grpc-message", f"HTTP {answer.status_code}"))
            raise CriError(method, status, text)
        return decode(answer.content[_FRAME.size :])


def _bytes(value: int | bytes) -> bytes:
    assert isinstance(value, bytes)
    return value


def _text(message: Decoded, number: int) -> str:
    return _bytes(message.get(number, [b""])[0]).decode(errors="replace")


def _message(message: Decoded, number: int) -> Decoded:
    return decode(_bytes(message.get(number, [b""])[0]))
