"""Takes up files that change while the process runs: settings and certificates.

ConfigMaps and Secrets are mounted as links through ``..data``, which moves to a new folder as a
whole: what is watched are the folders. (A volume mounted by ``subPath`` never changes.)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from watchfiles import awatch

from certificates.x509 import CertificateError
from injector.service.metrics import Metrics, Reloaded
from injector.service.settings import SettingsError
from process.files import FileError

POLL_SECONDS = 30.0
"""All files are read again this often in any case: not every file system tells of changes."""
_SETTLE_MS = 100
"""Changes that follow each other this closely are one."""

_log = structlog.get_logger()


@dataclass(slots=True)
class Reloadable:
    """Something that stands in files of one folder."""

    what: Reloaded
    folder: Path
    reload: Callable[[], bool]
    """Reads them again; True where something changed. Keeps what it had where it raises."""
    _complaint: str = field(default="", init=False)

    def try_reload(self, metrics: Metrics) -> None:
        """Take up a change; a bad one is logged, once, and counted."""
        try:
            changed = self.reload()
        except (SettingsError, CertificateError, FileError, OSError) as error:
            self._complain(str(error), metrics)
            return
        if self._complaint and not changed:
            _log.info("files are as before again", what=self.what, folder=str(self.folder))
        self._complaint = ""
        metrics.reload_ok(self.what, changed=changed)
        if changed:
            _log.info("reloaded", what=self.what, folder=str(self.folder))

    def _complain(self, complaint: str, metrics: Metrics) -> None:
        if complaint == self._complaint:
            return
        self._complaint = complaint
        metrics.reload_failed(self.what)
        _log.error(
            "not reloaded; what was loaded before stays in force", what=self.what, error=complaint
        )


async def keep_fresh(items: Sequence[Reloadable], metrics: Metrics) -> None:
    """Reload each item whenever its folder changes, for ever."""
    folders = sorted({item.folder for item in items})
    async for _ in _beats(folders):
        for item in items:
            item.try_reload(metrics)


async def _beats(folders: Sequence[Path]) -> AsyncIterator[None]:
    """Once now, then upon each change and every `POLL_SECONDS`; without inotify, those alone."""
    # What changed between the first load and the watch's beginning would never be noticed.
    yield
    try:
        async for _ in awatch(
            *folders,
            recursive=False,
            watch_filter=None,
            step=_SETTLE_MS,
            rust_timeout=int(POLL_SECONDS * 1000),
            yield_on_timeout=True,
        ):
            yield
    except (OSError, RuntimeError) as error:
        # Nodes run out of inotify instances (watchfiles tells of it by a RuntimeError of its
        # own); that must not take the webhook along.
        _log.warning("folders cannot be watched; reading them from time to time", error=str(error))
    while True:
        await asyncio.sleep(POLL_SECONDS)
        yield
