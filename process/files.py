"""Files as the shell reads and replaces them: YAML or JSON in, whole files out."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import yaml

from vocabulary.errors import MeshgraftError

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class FileError(MeshgraftError, ValueError):
    """A file cannot be read, parsed or written; the text names it and says what is wrong."""


def parse_documents(text: str, source: str) -> list[Any]:
    """The documents of a YAML or JSON text, without empty ones. ``source`` is for the error.

    Raises:
        FileError: neither JSON nor YAML.
    """
    try:
        # JSON first: it is YAML too, but the YAML parser takes a hundred times as long.
        return [msgspec.json.decode(text)]
    except (msgspec.DecodeError, RecursionError):
        pass
    try:
        documents = list(yaml.load_all(text, Loader=_Loader))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        detail = " ".join(str(error).split())
        raise FileError(f"{source}: neither YAML nor JSON: {detail}") from error
    return [document for document in documents if document is not None]


def read_documents(path: Path) -> list[Any]:
    """The documents of a YAML or JSON file, without empty ones.

    Raises:
        FileError: not readable, not UTF-8, or neither JSON nor YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise FileError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    return parse_documents(text, str(path))


def make_folder(folder: Path, mode: int) -> None:
    """Make the folder, and those above it, where they are missing.

    Raises:
        FileError: it cannot be made.
    """
    try:
        folder.mkdir(mode=mode, parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"{folder}: cannot be made: {error.strerror or error}") from error


def replace_file(path: Path, content: bytes, mode: int) -> None:
    """Write a whole file so that a reader sees the old content or the new, never a part.

    Raises:
        FileError: the folder cannot be written to (read-only, full, no permission).
    """
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise FileError(f"{path}: cannot be written: {error.strerror or error}") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise FileError(f"{path}: cannot be written: {error.strerror or error}") from error


def _sync_folder(folder: Path) -> None:
    """Make the rename itself outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
