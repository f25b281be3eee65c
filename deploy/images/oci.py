"""Packs a root folder into an OCI image archive, with the settings of the Dockerfile's last stage.

    oci.py layer ROOT LAYER                      a tar.gz of ROOT, the same bytes for the same files
    oci.py archive LAYER DOCKERFILE OUT --tag NAME [--build-arg K=V ...]

Only the standard library. What of a Dockerfile it does not know is an error, not left out.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import os
import platform
import re
import shlex
import sys
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_OCI = "application/vnd.oci.image"
_CHUNK = 1 << 20


class ImageError(Exception):
    """The image cannot be made; the text says why."""


@dataclass(slots=True)
class Stage:
    """What the Dockerfile's last stage sets."""

    env: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    user: str = ""
    workdir: str = "/"
    entrypoint: list[str] = field(default_factory=list)

    def config(self) -> dict[str, Any]:
        """The ``config`` of an OCI image configuration."""
        return {
            "User": self.user,
            "Env": [f"{name}={value}" for name, value in self.env.items()],
            "Entrypoint": self.entrypoint,
            "WorkingDir": self.workdir,
            "Labels": self.labels,
        }


def last_stage(dockerfile: str, build_args: Mapping[str, str]) -> Stage:
    """Read the last stage of a Dockerfile.

    Raises:
        ImageError: it has an instruction that is not known here, or is not ``FROM scratch``.
    """
    stage = Stage()
    base, args = "", dict[str, str]()
    for name, rest in _instructions(dockerfile):
        if name == "FROM":
            stage, base, args = Stage(), rest, {}
        elif name == "ARG":
            args |= {key: build_args.get(key, value) for key, value in _pairs(rest, {}).items()}
        elif base == "scratch":
            _apply(stage, name, rest, args)
    if base != "scratch":
        raise ImageError(f"the Dockerfile's last stage is FROM {base}, expected FROM scratch")
    return stage


def _apply(stage: Stage, name: str, rest: str, args: Mapping[str, str]) -> None:
    if name == "ENV":
        stage.env |= _pairs(rest, args)
    elif name == "LABEL":
        stage.labels |= _pairs(rest, args)
    elif name == "USER":
        stage.user = rest
    elif name == "WORKDIR":
        stage.workdir = rest
    elif name == "ENTRYPOINT":
        stage.entrypoint = json.loads(rest)
    elif name != "COPY":  # the one COPY brings the root folder, which comes as the layer
        raise ImageError(f"the Dockerfile's last stage has {name}, which is not known here")


def _instructions(dockerfile: str) -> Iterator[tuple[str, str]]:
    lines = [line for line in dockerfile.splitlines() if not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        if line.strip():
            name, _, rest = line.strip().partition(" ")
            yield name.upper(), rest.strip()


def _pairs(text: str, args: Mapping[str, str]) -> dict[str, str]:
    pairs = {}
    for word in shlex.split(text):
        name, _, value = word.partition("=")
        pairs[name] = re.sub(r"\$\{(\w+)\}", lambda match: args[match[1]], value)
    return pairs


def write_layer(root: Path, output: Path, epoch: int) -> None:
    """Pack all below ``root``: sorted, no time after ``epoch`` (seconds), gzip without a name."""
    with (
        output.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=6, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for path in sorted(root.rglob("*")):
            entry = archive.gettarinfo(path, str(path.relative_to(root)))
            entry.mtime = min(int(entry.mtime), epoch)
            entry.uname = entry.gname = ""
            if entry.isfile():
                with path.open("rb") as content:
                    archive.addfile(entry, content)
            else:
                archive.addfile(entry)


def write_archive(layer: Path, stage: Stage, name: str, created: str, output: Path) -> None:
    """Write an OCI archive that ``ctr images import`` and ``docker load`` take."""
    machine = platform.machine()
    with layer.open("rb") as packed:
        digest, size = _digest(packed)
    with gzip.open(layer) as unpacked:
        diff_id, _ = _digest(unpacked)
    config = _json(
        {
            "created": created,
            "architecture": _ARCHITECTURES.get(machine, machine),
            "os": "linux",
            "config": stage.config(),
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
            "history": [{"created": created, "created_by": "deploy/images/build-root"}],
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": f"{_OCI}.manifest.v1+json",
            "config": _descriptor(f"{_OCI}.config.v1+json", config),
            "layers": [{"mediaType": f"{_OCI}.layer.v1.tar+gzip", "digest": digest, "size": size}],
        }
    )
    reference = full_name(name)
    index = _json(
        {
            "schemaVersion": 2,
            "mediaType": f"{_OCI}.index.v1+json",
            "manifests": [
                {
                    **_descriptor(f"{_OCI}.manifest.v1+json", manifest),
                    "annotations": {
                        "io.containerd.image.name": reference,
                        "org.opencontainers.image.ref.name": reference.rpartition(":")[2],
                    },
                }
            ],
        }
    )
    with tarfile.open(output, "w") as archive:
        _add(archive, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        _add(archive, "index.json", index)
        for blob in (manifest, config):
            _add(archive, _place(_digest(io.BytesIO(blob))[0]), blob)
        entry = tarfile.TarInfo(_place(digest))
        entry.size = size
        with layer.open("rb") as content:
            archive.addfile(entry, content)


def full_name(name: str) -> str:
    """An image's name as runtimes keep it: with its registry and its tag.

    >>> full_name("meshgraft/meshgraft:1")
    'docker.io/meshgraft/meshgraft:1'
    """
    first, slash, _ = name.partition("/")
    if not slash:
        name = f"docker.io/library/{name}"
    elif not (set(first) & set(".:")) and first != "localhost":
        name = f"docker.io/{name}"
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def _descriptor(media_type: str, blob: bytes) -> dict[str, Any]:
    digest, size = _digest(io.BytesIO(blob))
    return {"mediaType": media_type, "digest": digest, "size": size}


def _place(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def _digest(stream: IO[bytes]) -> tuple[str, int]:
    """The digest and length of all that a stream has."""
    found, size = hashlib.sha256(), 0
    while chunk := stream.read(_CHUNK):
        found.update(chunk)
        size += len(chunk)
    return f"sha256:{found.hexdigest()}", size


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1).encode()


def main() -> None:
    """The command line; see the module's text."""
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    layer = commands.add_parser("layer")
    layer.add_argument("root", type=Path)
    layer.add_argument("layer", type=Path)
    archive = commands.add_parser("archive")
    archive.add_argument("layer", type=Path)
    archive.add_argument("dockerfile", type=Path)
    archive.add_argument("out", type=Path)
    archive.add_argument("--tag", required=True)
    archive.add_argument("--build-arg", action="append", default=[])
    given = parser.parse_args()
    if given.command == "layer":
        write_layer(given.root, given.layer, int(os.environ["SOURCE_DATE_EPOCH"]))
        return
    args = dict(item.split("=", 1) for item in given.build_arg)
    try:
        stage = last_stage(given.dockerfile.read_text(), args)
    except ImageError as error:
        sys.exit(f"oci.py: {error}")
    created = stage.labels["org.opencontainers.image.created"]
    write_archive(given.layer, stage, given.tag, created, given.out)


if __name__ == "__main__":
    main()
