"""A small CNI runtime: runs the plugins of a conflist as libcni does.

Order, environment, ``prevResult``, DEL in reverse and after a failed ADD are those of the CNI
specification 1.1.0, section 3.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meshgraft.lab import LabError
from meshgraft.lab.netns import Netns

ANNOTATIONS_CAPABILITY = "io.kubernetes.cri.pod-annotations"


@dataclass(frozen=True, slots=True)
class Attachment:
    """One container's attachment to the network: what a runtime keeps between ADD and DEL."""

    container_id: str
    netns: Path
    pod_namespace: str
    pod_name: str
    annotations: Mapping[str, str] | None = None
    """None for a runtime that does not hand annotations over."""
    ifname: str = "eth0"
    pod_uid: str = ""
    """Empty for a runtime that does not say it."""


@dataclass(frozen=True, slots=True)
class PluginRun:
    """One plugin's process: its output, and how long it took as a whole, in seconds."""

    plugin: str
    returncode: int
    stdout: bytes
    stderr: str
    seconds: float


class PluginError(LabError):
    """A plugin answered with an error. ``code`` and ``message`` are the CNI error's."""

    def __init__(self, command: str, run: PluginRun) -> None:
        """Read the CNI error from what the plugin printed."""
        try:
            error = json.loads(run.stdout)
        except ValueError:
            error = {"code": 0, "msg": run.stdout.decode(errors="replace")}
        self.run = run
        self.code = int(error.get("code", 0))
        self.message = str(error.get("msg", ""))
        super().__init__(
            f"{command} of plugin {run.plugin} failed with code {self.code}: {self.message}"
            f"{': ' + error['details'] if error.get('details') else ''}\n{run.stderr}"
        )


@dataclass
class Chain:
    """A parsed conflist, the folders in which its plugins are looked for, and the node."""

    conflist: Mapping[str, Any]
    path: Sequence[Path]
    node: Netns | None = None
    """The namespace that plays the node's part, where the bridge is; None is the machine's own."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to what the plugins inherit."""

    def add(self, attachment: Attachment) -> tuple[dict[str, Any], list[PluginRun]]:
        """Attach: the final result and every plugin's run.

        Raises:
            PluginError: a plugin failed; as the specification asks, DEL was run for all.
        """
        result: bytes | None = None
        runs = []
        for plugin in self.conflist["plugins"]:
            run = self._run("ADD", plugin, attachment, result)
            runs.append(run)
            if run.returncode != 0:
                self.delete(attachment, None)
                raise PluginError("ADD", run)
            result = run.stdout
        return json.loads(result or b"{}"), runs

    def check(self, attachment: Attachment, result: Mapping[str, Any]) -> None:
        """CHECK every plugin against the cached result of ADD."""
        for plugin in self.conflist["plugins"]:
            run = self._run("CHECK", plugin, attachment, json.dumps(result).encode())
            if run.returncode != 0:
                raise PluginError("CHECK", run)

    def delete(self, attachment: Attachment, result: Mapping[str, Any] | None) -> list[PluginRun]:
        """DEL in reverse order; goes on past failures, which it gives back with the rest."""
        prev = json.dumps(result).encode() if result is not None else None
        return [
            self._run("DEL", plugin, attachment, prev)
            for plugin in reversed(self.conflist["plugins"])
        ]

    def _run(
        self,
        command: str,
        plugin: Mapping[str, Any],
        attachment: Attachment,
        prev_result: bytes | None,
    ) -> PluginRun:
        binary = next(
            (d / plugin["type"] for d in self.path if (d / plugin["type"]).exists()), None
        )
        if binary is None:
            raise FileNotFoundError(
                f"CNI plugin {plugin['type']} is in none of {', '.join(map(str, self.path))}"
            )
        with self.node.entered() if self.node else contextlib.nullcontext():
            started = time.perf_counter()
            done = subprocess.run(
                [str(binary)],
                input=self._stdin(plugin, attachment, prev_result),
                env=self._environment(command, attachment),
                capture_output=True,
                check=False,
                timeout=60,
            )
            seconds = time.perf_counter() - started
        return PluginRun(
            plugin=plugin["type"],
            returncode=done.returncode,
            stdout=done.stdout,
            stderr=done.stderr.decode(errors="replace"),
            seconds=seconds,
        )

    def _stdin(
        self, plugin: Mapping[str, Any], attachment: Attachment, prev_result: bytes | None
    ) -> bytes:
        config = dict(plugin)
        config["cniVersion"] = self.conflist["cniVersion"]
        config["name"] = self.conflist["name"]
        wants = config.get("capabilities", {}).get(ANNOTATIONS_CAPABILITY)
        if wants and attachment.annotations is not None:
            config["runtimeConfig"] = {ANNOTATIONS_CAPABILITY: dict(attachment.annotations)}
        if prev_result is not None:
            config["prevResult"] = json.loads(prev_result)
        return json.dumps(config).encode()

    def _environment(self, command: str, attachment: Attachment) -> dict[str, str]:
        return {
            **os.environ,
            **self.environment,
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": attachment.container_id,
            "CNI_NETNS": str(attachment.netns),
            "CNI_IFNAME": attachment.ifname,
            "CNI_PATH": os.pathsep.join(map(str, self.path)),
            "CNI_ARGS": (
                f"IgnoreUnknown=1;K8S_POD_NAMESPACE={attachment.pod_namespace};"
                f"K8S_POD_NAME={attachment.pod_name};"
                f"K8S_POD_INFRA_CONTAINER_ID={attachment.container_id}"
                + (f";K8S_POD_UID={attachment.pod_uid}" if attachment.pod_uid else "")
            ),
        }
