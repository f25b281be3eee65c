"""Files of the node that others write too: read with their identity, replaced whole, synced."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from vocabulary.errors import MeshgraftError

_TEMPORARY = ".install"
"""As Linkerd's: no runtime reads files that end so."""
_STALE_SECONDS = 600.0
_MAX_BYTES = 16 << 20
"""Runtimes read files of any length; this is far beyond all that are meant."""


class HostFileError(MeshgraftError):
    """A file or folder of the node cannot be used; the text names it and says why."""


class TooLongError(HostFileError):
    """The file is longer than is read here; others may read it all the same."""


class ChangedMeanwhile(HostFileError):
    """Somebody wrote the file after it was read; what they wrote was left alone."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A file as it was when it was read. ``path`` has no link in it."""

    path: Path
    content: bytes
    status: os.stat_result

    def check_unchanged(self) -> None:
        """Raises ChangedMeanwhile where the file is no longer the one that was read."""
        try:
            now = self.path.stat()
        except OSError as error:
            raise ChangedMeanwhile(f"{self.path}: gone since it was read") from error
        if _identity(now) != _identity(self.status):
            raise ChangedMeanwhile(f"{self.path}: written by somebody since it was read")


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def identity(path: Path) -> tuple[int, ...] | None:
    """What changes with each write of the file; None where there is none."""
    try:
        return _identity(path.stat())
    except OSError:
        return None


def _refused(path: Path, what: str, error: OSError) -> HostFileError:
    return HostFileError(f"{path}: {what}: {error.strerror or error}")


def read(path: Path, limit: int = _MAX_BYTES) -> Snapshot:
    """A regular file of at most ``limit`` bytes (16 MiB), through links.

    Raises:
        HostFileError: there is none, it is something else, or it cannot be read.
    """
    try:
        real = path.resolve(strict=True)
        # A pipe must not hold us up, whoever put it there.
        with os.fdopen(os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise HostFileError(f"{path}: not a regular file")
            content = file.read(limit + 1)
    except (OSError, RuntimeError) as error:  # RuntimeError: links that lead in a circle
        reason = getattr(error, "strerror", None) or error
        raise HostFileError(f"{path}: cannot be read: {reason}") from error
    if len(content) > limit:
        raise TooLongError(f"{path}: longer than {limit} bytes")
    return Snapshot(real, content, status)


def replace(path: Path, content: bytes, like: Snapshot) -> None:
    """Write a whole file with the mode and owner of ``like``; a reader sees the old or the new.

    Where ``path`` is ``like``'s own, it must not have changed since.

    Raises:
        ChangedMeanwhile: it has; nothing was done.
        HostFileError: the folder cannot be written to, or the owner cannot be kept.
    """
    _write(path, content, stat.S_IMODE(like.status.st_mode), like)


def write(path: Path, content: bytes, mode: int) -> None:
    """Write a whole file of our own; a reader sees the old or the new.

    Raises:
        HostFileError: the folder cannot be written to.
    """
    _write(path, content, mode, None)


def _write(path: Path, content: bytes, mode: int, like: Snapshot | None) -> None:
    temporary: Path | None = None
    try:
        descriptor, name = tempfile.mkstemp(_TEMPORARY, f".{path.name}.", path.parent)
        temporary = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            if like is not None:
                _own_as(file.fileno(), like.status)
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if like is not None and path == like.path:
            like.check_unchanged()
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise _refused(path, "cannot be written", error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _own_as(descriptor: int, status: os.stat_result) -> None:
    mine = os.fstat(descriptor)
    if (mine.st_uid, mine.st_gid) != (status.st_uid, status.st_gid):
        os.fchown(descriptor, status.st_uid, status.st_gid)


def holds(path: Path, content: bytes, mode: int) -> bool:
    """Whether a regular file is there with this content and mode, and is no link."""
    try:
        found = read(path, len(content))
    except HostFileError:
        return False
    same = found.content == content and stat.S_IMODE(found.status.st_mode) == mode
    return same and not path.is_symlink()


def remove(path: Path) -> bool:
    """Take a file away for good; False where there was none.

    Raises:
        HostFileError: it cannot be removed.
    """
    try:
        path.unlink()
        sync_folder(path.parent)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise _refused(path, "cannot be removed", error) from error
    return True


def move(old: Path, new: Path) -> None:
    """Rename within a folder, to outlive a power cut.

    Raises:
        HostFileError: it cannot be renamed.
    """
    try:
        old.replace(new)
        sync_folder(new.parent)
    except OSError as error:
        raise _refused(old, f"cannot be renamed to {new.name}", error) from error


def sync_folder(folder: Path) -> None:
    """Make what happened to the folder's names outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def names(folder: Path) -> list[str]:
    """The names of what is in a folder and is no folder itself, in the order of runtimes.

    Raises:
        HostFileError: it cannot be listed.
    """
    try:
        with os.scandir(folder) as found:
            return sorted(item.name for item in found if not item.is_dir(follow_symlinks=False))
    except OSError as error:
        raise _refused(folder, "cannot be listed", error) from error


def sweep(folder: Path) -> None:
    """Remove what an installer that was killed left half-written; never a young file, which may be
    another's work under way."""
    for name in names(folder):
        if name.startswith(".") and name.endswith(_TEMPORARY):
            with contextlib.suppress(OSError):  # litter, and perhaps another sweeps it now
                path = folder / name
                if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                    path.unlink()
