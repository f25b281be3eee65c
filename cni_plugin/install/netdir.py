"""What installer and uninstaller share: net.d's configurations, what we keep there, the report."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path

from cni_plugin.install import conflist, host_files, libcni
from cni_plugin.install.conflist import Config, ConflistError
from cni_plugin.install.host_files import Snapshot

DROP_IN = "zzz-linkerd-cni.conf"
ORIGINAL_SUFFIX = ".linkerd-cni-original"
"""What a ``.conf`` that became a list is kept under; no runtime reads files that end so."""


@dataclass(slots=True)
class Report:
    """What one look at the node came to."""

    done: list[str] = field(default_factory=list)
    """What was changed, one sentence each; empty where all was as it should be."""
    problems: list[str] = field(default_factory=list)
    """What is in the way, or will be."""
    active: str | None = None
    """The file that pods are started with, if our entry is in it and our program in place."""
    retry_seconds: float | None = None
    """When to look again, even if nothing changes."""

    def retry(self, seconds: float) -> None:
        """Look again after so many seconds, or sooner if that was asked before."""
        self.retry_seconds = min(seconds, self.retry_seconds or seconds)


@dataclass(frozen=True, slots=True)
class Conf:
    """A valid configuration of the node."""

    path: Path
    """Where it is in net.d; the snapshot's is behind a link, if it is one."""
    file: Snapshot
    config: Config
    drop_ins: tuple[Config, ...] = ()
    """What others put into the folder of the network's name, in libcni's order."""

    @property
    def name(self) -> str:
        """The file's name in net.d."""
        return self.path.name


def original_of(single: Path) -> Path:
    """Where the original of a single configuration is kept once it is a list."""
    return single.with_name(single.name + ORIGINAL_SUFFIX)


def read_conf(path: Path) -> Conf:
    """Raises ConflistError or HostFileError for what no runtime could use."""
    file = host_files.read(path)
    config = conflist.parse(file.content)
    drop_ins = _drop_ins(path, config)
    conflist.check(path.name, config, drop_ins)
    return Conf(path, file, config, drop_ins)


def _drop_ins(path: Path, config: Config) -> tuple[Config, ...]:
    """The plugins in the folder of the network's name, except for ours."""
    name = config.get("name")
    if not libcni.is_list(path.name) or not isinstance(name, str) or "/" in name or not name:
        return ()
    folder = path.parent / name
    if libcni.loads_only_inlined(config) or not folder.is_dir():
        return ()
    found = []
    for each in host_files.names(folder):
        if each.endswith(libcni.DROP_IN_SUFFIX) and each != DROP_IN:
            try:
                plugin = conflist.parse(host_files.read(folder / each).content)
                libcni.check_plugin(plugin)
            except (ConflistError, libcni.LibcniError) as error:
                raise ConflistError(f"its drop-in {name}/{each}: {error}") from error
            found.append(plugin)
    return tuple(found)


def remove_drop_in(path: Path, report: Report) -> None:
    """Take a drop-in of ours away, and its folder if it was alone there."""
    if host_files.remove(path):
        report.done.append(f"removed {path}")
        with contextlib.suppress(OSError):  # others have drop-ins there too
            path.parent.rmdir()
