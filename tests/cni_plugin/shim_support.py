"""What the tests of the program, the wire and the agent share: real input, a build, stand-ins."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from cni_plugin.agent.protocol import REQUEST_HEADER_SIZE, Request, Response
from vocabulary.annotations.redirect import PortRange, Redirect

ROOT = Path(__file__).parents[2]
ANNOTATIONS = "io.kubernetes.cri.pod-annotations"
REDIRECT = Redirect(
    inbound_port=4143,
    outbound_port=4140,
    proxy_uid=2102,
    skip_inbound_ports=(PortRange(4190, 4191),),
)
_build_dir = tempfile.TemporaryDirectory(prefix="linkerd-cni-")


@cache
def program() -> Path:
    """The static program, built once for all tests."""
    output = Path(_build_dir.name) / "linkerd-cni"
    subprocess.run([ROOT / "scripts/build-cni", output], check=True, timeout=60)
    return output


def recorded(name: str) -> tuple[dict[str, str], dict[str, Any]]:
    """Environment and stdin of a call that containerd 2.1 made: ``add`` or ``del``."""
    call = json.loads((ROOT / f"tests/data/cni/{name}.json").read_text())
    return call["env"], call["stdin"]


def environment(
    command: str = "ADD", pod: str = "shop/web-0", **changes: str | None
) -> dict[str, str]:
    """A complete environment for ``command``; None takes a variable away."""
    namespace, _, name = pod.partition("/")
    env: dict[str, str | None] = {
        **recorded("add")[0],
        "CNI_COMMAND": command,
        "CNI_NETNS": "/dev/null",
        "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name}",
    }
    env.update(changes)
    return {key: value for key, value in env.items() if value is not None}


def netconf(annotations: Mapping[str, str] | None = None, **changes: Any) -> bytes:
    """The recorded entry, with these annotations (None: the runtime handed over none)."""
    entry = recorded("add")[1]
    entry["log_level"] = "info"
    del entry["runtimeConfig"]
    if annotations is not None:
        entry["runtimeConfig"] = {ANNOTATIONS: dict(annotations)}
    entry.update(changes)
    return json.dumps({key: value for key, value in entry.items() if value is not None}).encode()


@dataclass(frozen=True)
class Finished:
    """A run of the program that has ended."""

    exit_code: int
    stdout: bytes
    stderr: str
    seconds: float

    @property
    def error(self) -> dict[str, Any]:
        """The CNI error on stdout; also checks what holds for each of them."""
        assert self.exit_code == 1
        assert "linkerd-cni:" in self.stderr
        error = json.loads(self.stdout)
        assert set(error) == {"cniVersion", "code", "msg", "details"}
        assert isinstance(error, dict)
        return error


def run_program(
    env: Mapping[str, str],
    stdin: bytes = b"",
    agent: Path = Path("/nonexistent/agent.sock"),
    timeout_ms: int = 5000,
) -> Finished:
    """Run the program as the runtime does, against the agent at this socket."""
    if not agent.parent.exists():
        timeout_ms = min(timeout_ms, 300)  # it would try until its time is over
    own = {"LINKERD_CNI_SOCKET": str(agent), "LINKERD_CNI_TIMEOUT_MS": str(timeout_ms)}
    started = time.monotonic()
    done = subprocess.run(
        [program()], input=stdin, env={**own, **env}, capture_output=True, timeout=30, check=False
    )
    seconds = time.monotonic() - started
    return Finished(done.returncode, done.stdout, done.stderr.decode(), seconds)


def read_request(connection: socket.socket) -> tuple[Request, list[int]]:
    """What the program sent: the request and the descriptors beside it."""
    data, fds, _, _ = socket.recv_fds(connection, REQUEST_HEADER_SIZE, 4)
    size = REQUEST_HEADER_SIZE + Request.body_size(data)
    while len(data) < size:
        data += connection.recv(size - len(data))
    return Request.decode(data), fds


@contextmanager
def fake_agent(path: Path, serve: Callable[[socket.socket], None]) -> Iterator[Path]:
    """A socket whose one connection is given to ``serve``, in a thread."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen(1)

        def accept() -> None:
            try:
                connection, _ = listener.accept()
            except OSError:
                return  # nobody called
            with connection:
                serve(connection)

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield path
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(timeout=10)


def call_agent(path: Path, request: Request, fds: tuple[int, ...] = ()) -> Response:
    """Call the agent as the program does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(10)
        connection.connect(str(path))
        data = request.encode()
        sent = socket.send_fds(connection, [data], list(fds)) if fds else connection.send(data)
        if sent < len(data):
            connection.sendall(data[sent:])
        answer = b""
        while chunk := connection.recv(1 << 16):
            answer += chunk
    return Response.decode(answer)


@dataclass
class FakeBackend:
    """A `Backend` that remembers what it was asked, and does as it is told."""

    name: str = "fake"
    applied: list[Redirect] = field(default_factory=list)
    found: str | None = None
    failure: Exception | None = None
    before: Callable[[], object] = lambda: None

    def apply(self, netns_fd: int, redirect: Redirect) -> bool:
        """Remember the rules."""
        os.fstat(netns_fd)
        self.before()
        if self.failure:
            raise self.failure
        self.applied.append(redirect)
        return True

    def remove(self, netns_fd: int) -> bool:
        """Forget the rules."""
        raise AssertionError(f"nothing removes rules here ({netns_fd})")

    def difference(self, netns_fd: int, redirect: Redirect) -> str | None:
        """What the test said would be found."""
        os.fstat(netns_fd)
        self.applied.append(redirect)
        return self.found


def wait_until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait for a condition, and fail if it does not come about in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not come about in time"
        threading.Event().wait(0.01)
