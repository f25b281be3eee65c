"""Which network CRI-O starts pods with, where its settings name one (``cni_default_network``)."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from cni_plugin.install import host_files
from cni_plugin.install.host_files import HostFileError


def default_network(root: Path) -> str:
    """The name in ``/etc/crio/crio.conf`` and ``crio.conf.d`` under ``root``, of which the last
    counts; empty where none is named, or where nothing of CRI-O is seen.

    Raises:
        HostFileError: a file of its is there and cannot be read.
    """
    folder = root / "etc/crio"
    drop_ins = folder / "crio.conf.d"
    paths = [folder / "crio.conf"]
    if drop_ins.is_dir():
        paths += [drop_ins / name for name in host_files.names(drop_ins)]
    found = ""
    for path in paths:
        if path.exists():
            found = _named(path, found)
    return found


def _named(path: Path, before: str) -> str:
    try:
        tree: Any = tomllib.loads(host_files.read(path).content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise HostFileError(f"{path}: not TOML: {error}") from error
    for key in ("crio", "network"):
        tree = tree.get(key) if isinstance(tree, dict) else None
    name = tree.get("cni_default_network") if isinstance(tree, dict) else None
    return name if isinstance(name, str) else before
