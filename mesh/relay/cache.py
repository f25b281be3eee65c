"""What the relay knows of the cluster, also on disk: new pods of a node whose control is away get
what others of the node have had. No secret is ever among it."""

from __future__ import annotations

from pathlib import Path

import structlog

from mesh.xds.messages import MessageError, Response
from mesh.xds.store import Store
from process.files import FileError, replace_file

_log = structlog.get_logger()
MOST_BYTES = 64 * 1024 * 1024


def load(path: Path, store: Store) -> int:
    """Put what the file holds into the store; how many resources. A file that is not whole, or of
    another version, counts for nothing: control will say it all again."""
    try:
        data = path.read_bytes() if path.stat().st_size <= MOST_BYTES else b""
        response = Response.decode(data)
    except FileNotFoundError:
        return 0
    except (OSError, MessageError) as error:
        _log.warning("the cache on disk is not usable, and left aside", error=str(error))
        return 0
    for resource in response.resources:
        store.put(resource)
    return len(response.resources)


def save(path: Path, store: Store) -> None:
    """Write what the store holds.

    Raises:
        FileError: it cannot be written.
    """
    resources = store.resources()
    replace_file(
        path, Response(type_url="", nonce="", resources=resources, whole=True).encode(), 0o600
    )


class Saver:
    """Writes when something has changed, and not more often than it has to."""

    def __init__(self, path: Path, store: Store) -> None:
        """Nothing is due yet."""
        self._path = path
        self._store = store
        self._written: tuple[object, ...] = ()

    def save_if_changed(self) -> bool:
        """Whether it had to be written; a disk that is full costs a warning, nothing else."""
        state = tuple((each.key, each.version) for each in self._store.resources())
        if state == self._written:
            return False
        try:
            save(self._path, self._store)
        except FileError as error:
            _log.warning("the cache cannot be written to disk", error=str(error))
        self._written = state
        return True
