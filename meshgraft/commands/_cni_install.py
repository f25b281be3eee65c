"""The flags of ``cni-agent`` about installation, and what they come to; names as Linkerd's."""

from __future__ import annotations

import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from cni_plugin.agent.netconf import DEFAULT_EXCLUDED_NAMESPACES
from cni_plugin.agent.server import DEFAULT_SOCKET
from cni_plugin.install.conflist import PLUGIN_TYPE, ConflistError, default_entry, parse_entry
from cni_plugin.install.installer import InstallSettings, Method, Scope
from meshgraft._errors import CommandError

_NET_DIR = "/etc/cni/net.d"
_BIN_DIR = "/opt/cni/bin"
_HOST_PREFIX = "/host"
_LEVEL = "info"


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class InstallFlags:
    """Where to install the plugin on this node, and how.

    An environment variable that is empty counts as absent.
    """

    install: bool = False
    """Keep the plugin installed on this node: its program, and its entry in the active network
    configuration. Without it nothing on the node is changed."""

    uninstall: bool = False
    """Take the plugin out of this node's configurations, remove its program, and end."""

    dest_cni_net_dir: Annotated[str, Parameter(env_var="DEST_CNI_NET_DIR")] = _NET_DIR
    """The node's folder of network configurations."""

    dest_cni_bin_dir: Annotated[str, Parameter(env_var="DEST_CNI_BIN_DIR")] = _BIN_DIR
    """The node's folder of CNI plugins."""

    container_mount_prefix: Annotated[str, Parameter(env_var="CONTAINER_MOUNT_PREFIX")] = (
        _HOST_PREFIX
    )
    """Where this container has the node's folders; / outside a container."""

    cni_network_config: Annotated[str, Parameter(env_var="CNI_NETWORK_CONFIG")] = ""
    """The plugin's entry as JSON, with Linkerd's keys. Default: one with nothing but defaults."""

    cni_network_config_file: Annotated[
        Path | None, Parameter(env_var="CNI_NETWORK_CONFIG_FILE")
    ] = None
    """A file with the entry, in place of --cni-network-config; as with Linkerd's installer."""

    cni_log_level: str = ""
    """log_level of the entry: debug, info or warn. Default: the entry's own, or else info."""

    cni_exclude_namespaces: str = ""
    """Namespaces whose pods are never looked at, with commas between. Default: the entry's own, or
    else kube-system, linkerd-cni and the agent's own."""

    cni_scope: Scope = "active"
    """Which configurations get the entry: the one that pods are started with, or all."""

    cni_method: Method = "rewrite"
    """How: into the configuration's own file, or as a file in its drop-in folder, which needs a
    runtime with libcni 1.3 or newer."""

    default_network: Annotated[str, Parameter(env_var="CNI_DEFAULT_NETWORK")] = ""
    """The network that pods are started with, by name: CRI-O's cni_default_network. Default: as
    /etc/crio says, if this container sees it; else the first configuration by file name."""

    program: Path | None = None
    """The static program that is copied. Default: linkerd-cni beside the meshgraft script."""


def install_settings(flags: InstallFlags, socket: Path, own_namespace: str) -> InstallSettings:
    """What to install, and where.

    Raises:
        CommandError: a folder is not absolute, the entry is none, or there is no program.
    """
    return InstallSettings(
        program=flags.program or _program(),
        entry=plugin_entry(flags, socket, own_namespace),
        net_dir=_folder("--dest-cni-net-dir", flags.dest_cni_net_dir or _NET_DIR),
        bin_dir=_folder("--dest-cni-bin-dir", flags.dest_cni_bin_dir or _BIN_DIR),
        host_prefix=_folder(
            "--container-mount-prefix", flags.container_mount_prefix or _HOST_PREFIX
        ),
        scope=flags.cni_scope,
        method=flags.cni_method,
        default_network=flags.default_network,
    )


def _folder(flag: str, text: str) -> Path:
    if not Path(text).is_absolute():
        raise CommandError(f"{flag} {text!r}: expected a path that starts with /")
    return Path(text)


def _program() -> Path:
    """The program that was installed with this package, as an image or ``scripts/setup`` does."""
    folders = (sysconfig.get_path("scripts"), str(Path(sys.prefix) / "bin"))
    for folder in folders:
        if (Path(folder) / PLUGIN_TYPE).is_file():
            return Path(folder) / PLUGIN_TYPE
    raise CommandError(
        f"there is no program {PLUGIN_TYPE} in {folders[0]}: "
        "build it with scripts/build-cni, or name it with --program"
    )


def plugin_entry(flags: InstallFlags, socket: Path, own_namespace: str) -> dict[str, Any]:
    """The plugin's entry, as it is or would be installed.

    Raises:
        CommandError: ``--cni-network-config`` is none.
    """
    try:
        entry = _given_entry(flags)
    except ConflistError as error:
        raise CommandError(f"--cni-network-config (CNI_NETWORK_CONFIG): {error}") from error
    ours = entry.get("meshgraft") or {}
    if not isinstance(ours, dict):
        raise CommandError("--cni-network-config (CNI_NETWORK_CONFIG): meshgraft is not an object")
    ours = dict(ours)
    excluded = _excluded(flags, own_namespace)
    if excluded and (flags.cni_exclude_namespaces or ours.get("excludeNamespaces") is None):
        ours["excludeNamespaces"] = excluded
    ours.pop("socket", None)
    if socket.absolute() != DEFAULT_SOCKET:
        ours["socket"] = str(socket.absolute())
    return {**entry, "meshgraft": ours} if ours else entry


def _given_entry(flags: InstallFlags) -> dict[str, Any]:
    text = flags.cni_network_config
    if flags.cni_network_config_file is not None:
        try:
            text = flags.cni_network_config_file.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(
                f"--cni-network-config-file (CNI_NETWORK_CONFIG_FILE): {error}"
            ) from error
    if text.strip():
        return parse_entry(text, flags.cni_log_level or None)
    return default_entry(flags.cni_log_level or _LEVEL)


def _excluded(flags: InstallFlags, own_namespace: str) -> list[str]:
    """Empty where the plugin's own default is enough.

    The agent's own namespace must be among them, or its pod might wait for itself.
    """
    if flags.cni_exclude_namespaces:
        return [name for item in flags.cni_exclude_namespaces.split(",") if (name := item.strip())]
    if own_namespace and own_namespace not in DEFAULT_EXCLUDED_NAMESPACES:
        return [*DEFAULT_EXCLUDED_NAMESPACES, own_namespace]
    return []
