"""Many pods at once: namespaces at little cost, and the static program started for all of them."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from cni_plugin.dataplane.netns import CLONE_NEWNET, OWN_NETNS
from meshgraft.lab.chain import ANNOTATIONS_CAPABILITY
from tests.chain.agent import PROGRAM
from vocabulary.annotations import REDIRECT_ANNOTATION, Redirect

_PREV_RESULT = {"cniVersion": "1.1.0", "ips": [{"address": "10.216.0.2/24"}], "dns": {}}


@dataclass(frozen=True, slots=True)
class ManyPod:
    """A pod's name, its namespace behind an open descriptor, and the rules it is to have."""

    name: str
    fd: int
    redirect: Redirect

    @property
    def path(self) -> str:
        """Where anybody may open the namespace while we live."""
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    def run(self, *argv: str) -> str:
        """What a program prints that runs inside."""
        done = subprocess.run(
            ["nsenter", f"--net={self.path}", "--", *argv],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        return done.stdout + done.stderr

    def environment(self, command: str, namespace: str = "shop") -> dict[str, str]:
        """The program's environment, without our own."""
        return {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": self.name,
            "CNI_NETNS": self.path,
            "CNI_IFNAME": "eth0",
            "CNI_PATH": str(PROGRAM.parent),
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={self.name}",
        }

    def stdin(self, *, meshed: bool = True) -> bytes:
        """The plugin's entry with the pod's annotations."""
        annotations = {REDIRECT_ANNOTATION: self.redirect.to_annotation()} if meshed else {}
        entry = {
            "cniVersion": "1.1.0",
            "name": "node",
            "type": "linkerd-cni",
            "runtimeConfig": {ANNOTATIONS_CAPABILITY: annotations},
            "prevResult": _PREV_RESULT,
        }
        return json.dumps(entry).encode()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended. ``code`` is 0 for success, else the CNI error's."""

    code: int
    output: str


@contextmanager
def many_pods(redirects: Sequence[Redirect]) -> Iterator[list[ManyPod]]:
    """A pod for each Redirect. Their namespaces have no name: they go with their descriptors."""
    with ExitStack() as stack:
        descriptors = _new_namespaces(len(redirects))
        for fd in descriptors:
            stack.callback(os.close, fd)
        yield [
            ManyPod(f"pod-{number}", fd, redirect)
            for number, (fd, redirect) in enumerate(zip(descriptors, redirects, strict=True))
        ]


def _new_namespaces(count: int) -> list[int]:
    """Made by a thread that ends in the last of them, so that no other is ever moved."""
    descriptors: list[int] = []
    libc = ctypes.CDLL(None, use_errno=True)

    def make() -> None:
        for _ in range(count):
            if libc.unshare(CLONE_NEWNET) != 0:
                return
            descriptors.append(os.open(OWN_NETNS, os.O_RDONLY | os.O_CLOEXEC))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    assert len(descriptors) == count, os.strerror(ctypes.get_errno())
    return descriptors


@dataclass
class Calls:
    """The program, started for each pod and waiting for its input, until `release`."""

    command: str
    pods: Sequence[ManyPod]
    environment: Mapping[str, str]
    _running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for pod in self.pods:
            process = subprocess.Popen(
                [PROGRAM],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**pod.environment(self.command), **self.environment},
            )
            self._running.append(process)

    def release(self) -> None:
        """Let all of them go at once."""
        for pod, process in zip(self.pods, self._running, strict=True):
            assert process.stdin is not None
            process.stdin.write(pod.stdin())
            process.stdin.close()
            process.stdin = None  # communicate() would close it again

    def ended(self) -> int:
        """How many have ended so far."""
        return sum(process.poll() is not None for process in self._running)

    def outcomes(self) -> list[Outcome]:
        """Wait for all of them."""
        return [_outcome(process) for process in self._running]


def call_all(
    command: str, pods: Sequence[ManyPod], environment: Mapping[str, str]
) -> list[Outcome]:
    """The program for every pod at the same time."""
    calls = Calls(command, pods, environment)
    calls.release()
    return calls.outcomes()


def _outcome(process: subprocess.Popen[bytes]) -> Outcome:
    out, err = process.communicate(timeout=60)
    if process.returncode == 0:
        assert not out or json.loads(out) == _PREV_RESULT
        return Outcome(0, err.decode())
    error: dict[str, Any] = json.loads(out)
    return Outcome(error["code"], f"{error['msg']}\n{err.decode()}")
