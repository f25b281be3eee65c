"""The node's agent as a process, which can be killed and started again on the same socket."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from meshgraft.lab.process import Process
from vocabulary.annotations import REDIRECT_ANNOTATION, PortRange, Redirect

PROGRAM = Path(sys.executable).parent / "linkerd-cni"
"""The static program as scripts/setup leaves it."""

REDIRECT = Redirect(
    inbound_port=4143,
    outbound_port=4140,
    proxy_uid=2102,
    skip_inbound_ports=(PortRange(4190, 4191),),
)
ANNOTATIONS = {REDIRECT_ANNOTATION: REDIRECT.to_annotation()}
"""What our injector leaves on a meshed pod, as far as the plugin is concerned."""


class AgentProcess:
    """An agent behind ``socket``; not running before `start`."""

    def __init__(self, folder: Path, mode: str, *flags: str) -> None:
        self.socket = folder / "agent.sock"
        self._folder = folder
        self._flags = ("--socket", str(self.socket), "--iptables-mode", mode, *flags)
        self._process: Process | None = None
        self._logs: list[Path] = []

    @property
    def environment(self) -> dict[str, str]:
        """What tells the static program where this agent is."""
        return {"LINKERD_CNI_SOCKET": str(self.socket)}

    @property
    def pid(self) -> int:
        """The process id of the one that runs."""
        assert self._process is not None, "the agent does not run"
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until it listens."""
        self._logs.append(self._folder / f"agent-{len(self._logs)}.log")
        before = self._inode()
        self._process = Process(
            "cni-agent",
            [sys.executable, "-m", "meshgraft", "cni-agent", *self._flags],
            self._logs[-1],
            # In a pod (a CI runner's) the agent would ask that cluster about pretended pods.
            env={k: v for k, v in os.environ.items() if k != "KUBERNETES_SERVICE_HOST"},
        )
        # One that was killed leaves its socket behind.
        self._process.wait_for(lambda: self._inode() not in (None, before) or None, "its socket")

    def stop(self) -> None:
        """End it as an upgrade does (SIGTERM); nothing where it does not run."""
        if self._process is not None:
            self._process.stop()
            self._process = None

    def kill(self) -> None:
        """SIGKILL, in the middle of whatever it does."""
        assert self._process is not None, "the agent does not run"
        self._process.kill(signal.SIGKILL)
        self._process.wait()
        self._process = None

    def calls(self) -> list[dict[str, Any]]:
        """What the agents that ran here logged about the calls that they answered, in order."""
        entries = []
        for log in self._logs:
            for line in log.read_text().splitlines():
                with contextlib.suppress(ValueError):  # a line cut off by SIGKILL
                    entries.append(json.loads(line))
        return [entry for entry in entries if entry.get("msg") == "call answered"]

    def calls_for(self, pod: str) -> list[dict[str, Any]]:
        """Those of `calls` that are about ``namespace/name``."""
        return [entry for entry in self.calls() if entry["pod"] == pod]

    def _inode(self) -> int | None:
        try:
            return self.socket.stat().st_ino
        except OSError:
            return None


@contextlib.contextmanager
def running_agent(folder: Path, mode: str = "nft", *flags: str) -> Iterator[AgentProcess]:
    """An agent for the length of the block, with more flags where given."""
    agent = AgentProcess(folder, mode, *flags)
    agent.start()
    try:
        yield agent
    finally:
        agent.stop()
