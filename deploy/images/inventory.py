"""Says what is in an image archive, and where each file comes from: ``inventory.py ARCHIVE``.

Debian's packages and Python's distributions are named, as they list their own files; byte code
belongs to its source. Every other file has a line with its rights, owner and the target of a link.
``deploy/images/files.txt`` is this text for the image as it should be; a test compares.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import sys
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from posixpath import normpath
from typing import IO

_DPKG = PurePosixPath("var/lib/dpkg/info")
_ARCHITECTURE = re.compile(r"\b(x86_64|aarch64)-linux-gnu\b")
_BYTECODE = re.compile(r"__pycache__/([^/]+)\.cpython-\d+\.pyc$")
_SET_ID = 0o6000

Members = Mapping[str, tarfile.TarInfo]


class NotAnImageError(Exception):
    """The file is no archive as `oci` writes it; the text says what is missing."""


@contextmanager
def open_layer(archive: Path) -> Iterator[tarfile.TarFile]:
    """The one layer of an OCI archive.

    Raises:
        NotAnImageError: it is none, or has more layers.
    """
    with tarfile.open(archive) as image:
        index = json.loads(_text(image, "index.json"))
        manifest = json.loads(_text(image, _place(index["manifests"][0])))
        if len(manifest["layers"]) != 1:
            raise NotAnImageError(f"{archive} has {len(manifest['layers'])} layers, expected one")
        packed = _content(image, _place(manifest["layers"][0]))
        with gzip.open(packed) as unpacked, tarfile.open(fileobj=unpacked) as layer:
            yield layer


def _place(descriptor: Mapping[str, str]) -> str:
    return "blobs/" + descriptor["digest"].replace(":", "/")


def inventory(layer: tarfile.TarFile) -> list[str]:
    """The lines: packages, distributions, then all that belongs to neither."""
    members = {member.name: member for member in layer.getmembers()}
    debian = {name: _listed(layer, name) for name in members if _is_list(name)}
    python = {name: _recorded(layer, name) for name in members if name.endswith("/RECORD")}
    owned = set[str]().union(*debian.values(), *python.values())
    return [
        *(f"debian {PurePosixPath(name).stem}" for name in sorted(debian)),
        *sorted(f"python {_distribution(layer, name)}" for name in python),
        *_others(members, owned),
    ]


def _is_list(name: str) -> bool:
    return PurePosixPath(name).parent == _DPKG and name.endswith(".list")


def _listed(layer: tarfile.TarFile, name: str) -> set[str]:
    """What a Debian package brings; and its own list."""
    return {name} | {line.lstrip("/") for line in _text(layer, name).splitlines()}


def _recorded(layer: tarfile.TarFile, name: str) -> set[str]:
    """What a Python distribution brings, by its RECORD, whose paths start where it is installed."""
    site = PurePosixPath(name).parent.parent
    return {normpath(f"{site}/{row[0]}") for row in csv.reader(_text(layer, name).splitlines())}


def _distribution(layer: tarfile.TarFile, record: str) -> str:
    metadata = _text(layer, record.removesuffix("RECORD") + "METADATA")
    return re.sub(r"[-_.]+", "-", metadata.split("Name: ", 1)[1].split("\n", 1)[0]).lower()


def _others(members: Members, owned: Iterable[str]) -> Iterator[str]:
    """What nobody brought; and what may run with another's rights, whoever brought it."""
    owned = set(owned)
    parents = {str(parent) for name in members for parent in PurePosixPath(name).parents}
    for name, member in sorted(members.items()):
        harmless = not member.mode & _SET_ID and (member.uid, member.gid) == (0, 0)
        if harmless and (name in owned or (member.isdir() and name in parents)):
            continue
        if harmless and _BYTECODE.search(name) and _BYTECODE.sub(r"\1.py", name) in members:
            continue
        yield _ARCHITECTURE.sub("ARCH-linux-gnu", _line(member))


def _line(member: tarfile.TarInfo) -> str:
    target = f" -> {member.linkname}" if member.issym() else ""
    slash = "/" if member.isdir() else ""
    return f"{member.mode & 0o7777:04o} {member.uid}:{member.gid} /{member.name}{slash}{target}"


def _text(archive: tarfile.TarFile, name: str) -> str:
    return _content(archive, name).read().decode()


def _content(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    try:
        content = archive.extractfile(name)
    except KeyError:
        content = None
    if content is None:
        raise NotAnImageError(f"there is no file {name} in it")
    return content


if __name__ == "__main__":
    with open_layer(Path(sys.argv[1])) as opened:
        print(*inventory(opened), sep="\n")
