"""A CNI runtime as libcni is one: net.d with drop-in folder, capabilities, prevResult, cache.

`meshgraft.lab.chain` is the short one, for a conflist in memory. This one reads files as a node
has them, hands a plugin's bytes on untouched, and keeps results as libcni does, so that a test
sees what each plugin was given and gave.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from meshgraft.lab.chain import PluginError, PluginRun
from meshgraft.lab.netns import Netns

_EXTENSIONS = (".conf", ".conflist", ".json")


@dataclass(frozen=True, slots=True)
class Pod:
    """A container's attachment, as the runtime knows it."""

    name: str
    netns: Netns
    capabilities: Mapping[str, Any] = field(default_factory=dict)
    """What the runtime has for plugins that ask for it by ``capabilities``."""
    namespace: str = "shop"
    ifname: str = "eth0"

    @property
    def container_id(self) -> str:
        """One container for each namespace."""
        return self.netns.name

    def args(self) -> str:
        """``CNI_ARGS`` as containerd writes them."""
        return (
            f"K8S_POD_INFRA_CONTAINER_ID={self.container_id};K8S_POD_UID={self.container_id};"
            f"IgnoreUnknown=1;K8S_POD_NAMESPACE={self.namespace};K8S_POD_NAME={self.name}"
        )


@dataclass(frozen=True, slots=True)
class Step(PluginRun):
    """One plugin's run, and what it was given as ``prevResult`` (empty where nothing)."""

    prev_result: bytes


@dataclass
class Runtime:
    """Runs the first network of ``net_dir``."""

    net_dir: Path
    bin_dirs: Sequence[Path]
    node: Netns
    """The namespace that plays the node's part."""
    cache: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def add(self, pod: Pod) -> list[Step]:
        """Attach: every plugin in order, each with the result of the one before.

        Raises:
            PluginError: a plugin failed. No result is kept; `delete` is the caller's duty, as
                it is the runtime's towards libcni.
        """
        network = self.network()
        steps: list[Step] = []
        for plugin in network["plugins"]:
            steps.append(self._run("ADD", network, plugin, pod, steps[-1].stdout if steps else b""))
            _raise_for("ADD", steps[-1])
        self._cached(pod).write_bytes(steps[-1].stdout)
        return steps

    def check(self, pod: Pod) -> list[Step]:
        """CHECK with the kept result; libcni does nothing where the list has ``disableCheck``.

        Raises:
            PluginError: the first plugin that found a difference.
        """
        network = self.network()
        if network.get("disableCheck"):
            return []
        result = self._cached(pod).read_bytes()
        steps = []
        for plugin in network["plugins"]:
            steps.append(self._run("CHECK", network, plugin, pod, result))
            _raise_for("CHECK", steps[-1])
        return steps

    def delete(self, pod: Pod) -> list[Step]:
        """DEL in reverse order, with the kept result where the version has it (0.4.0 and newer).

        Raises:
            PluginError: a plugin failed; as in libcni the ones before it were not called.
        """
        network = self.network()
        cached = self._cached(pod)
        hands_on = _version(network) >= (0, 4, 0) and cached.exists()
        result = cached.read_bytes() if hands_on else b""
        steps = []
        for plugin in reversed(network["plugins"]):
            steps.append(self._run("DEL", network, plugin, pod, result))
            _raise_for("DEL", steps[-1])
        cached.unlink(missing_ok=True)
        return steps

    def whole_network(self, command: str) -> list[Step]:
        """STATUS or GC, which are about no pod; GC names the attachments that are kept.

        Raises:
            PluginError: a plugin failed; of GC only after all were called.
        """
        network = self.network()
        more = {}
        if command == "GC":
            kept = [path.name.partition("@") for path in self.cache.iterdir()]
            valid = [{"containerID": owner, "ifname": ifname} for owner, _, ifname in kept]
            more = {"cni.dev/valid-attachments": valid, "cni.dev/attachments": valid}
        steps = [
            self._run(command, network, {**plugin, **more}, None, b"")
            for plugin in network["plugins"]
        ]
        for step in steps:
            _raise_for(command, step)
        return steps

    def network(self) -> dict[str, Any]:
        """The first valid network by name, and behind its plugins those of its drop-in folder."""
        for path in sorted(self.net_dir.iterdir()):
            if path.suffix in _EXTENSIONS and path.is_file():
                with contextlib.suppress(ValueError):
                    network: dict[str, Any] = json.loads(path.read_text())
                    return {**network, "plugins": list(self._plugins(network))}
        raise FileNotFoundError(f"no network in {self.net_dir}")

    def _plugins(self, network: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if "plugins" not in network and "type" in network:
            yield network
            return
        yield from network.get("plugins", [])
        if not network.get("loadOnlyInlinedPlugins"):
            for path in sorted((self.net_dir / network["name"]).glob("*.conf")):
                yield json.loads(path.read_text())

    def _cached(self, pod: Pod) -> Path:
        self.cache.mkdir(exist_ok=True)
        return self.cache / f"{pod.container_id}@{pod.ifname}"

    def _run(
        self,
        command: str,
        network: Mapping[str, Any],
        plugin: Mapping[str, Any],
        pod: Pod | None,
        prev_result: bytes,
    ) -> Step:
        binary = next(d / plugin["type"] for d in self.bin_dirs if (d / plugin["type"]).exists())
        environment = {
            **os.environ,
            **self.environment,
            "CNI_COMMAND": command,
            "CNI_PATH": os.pathsep.join(map(str, self.bin_dirs)),
        }
        if pod:
            environment |= {
                "CNI_CONTAINERID": pod.container_id,
                "CNI_NETNS": str(pod.netns.path),
                "CNI_IFNAME": pod.ifname,
                "CNI_ARGS": pod.args(),
            }
        with self.node.entered():
            started = time.perf_counter()
            done = subprocess.run(
                [binary],
                input=_stdin(network, plugin, pod, prev_result),
                env=environment,
                capture_output=True,
                check=False,
                timeout=60,
            )
            seconds = time.perf_counter() - started
        return Step(
            plugin=plugin["type"],
            returncode=done.returncode,
            stdout=done.stdout,
            stderr=done.stderr.decode(errors="replace"),
            seconds=seconds,
            prev_result=prev_result,
        )


def _stdin(
    network: Mapping[str, Any], plugin: Mapping[str, Any], pod: Pod | None, prev_result: bytes
) -> bytes:
    """The plugin's entry, with the list's name and version, and what its ``capabilities`` ask."""
    entry = {k: v for k, v in plugin.items() if k != "capabilities"}
    entry |= {"name": network["name"], "cniVersion": network["cniVersion"]}
    wanted = [name for name, asked in plugin.get("capabilities", {}).items() if asked]
    runtime_config = {k: pod.capabilities[k] for k in wanted if pod and k in pod.capabilities}
    if runtime_config:
        entry["runtimeConfig"] = runtime_config
    if prev_result:
        entry["prevResult"] = msgspec.Raw(prev_result)
    return msgspec.json.encode(entry)


def _version(network: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(int(part) for part in network["cniVersion"].split("."))


def _raise_for(command: str, step: Step) -> None:
    if step.returncode != 0:
        raise PluginError(command, step)
