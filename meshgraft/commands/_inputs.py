"""What inject and uninject read: files, folders, stdin and HTTPS URLs, as text."""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO

from meshgraft._errors import CommandError
from vocabulary.version import __version__

MAX_DOWNLOAD_BYTES = 64 * 1024 * 1024
_TIMEOUT_SECONDS = 30.0
_ONLY_HTTPS = "only HTTPS URLs are allowed"


@dataclass(frozen=True, slots=True)
class Source:
    """One text and where it came from, as errors name it."""

    name: str
    text: str


def read_all(resources: Sequence[str]) -> list[Source]:
    """The texts of all that is named on the command line, in order.

    Raises:
        CommandError: nothing is named; something is missing, unreadable, or not UTF-8; an
            unknown option.
    """
    if not resources:
        raise CommandError("please specify a kubernetes resource file (- for stdin)")
    for resource in resources:
        # The lone - makes the command line take anything for a resource; and - is read only once.
        if resource.startswith("-") and resource != "-":
            raise CommandError(f"unknown option: {resource} (see --help; ./{resource} is a file)")
    if resources.count("-") > 1:
        raise CommandError("stdin (-) can be read only once")
    return [source for resource in resources for source in _read(resource)]


def _read(resource: str) -> Iterator[Source]:
    if resource == "-":
        yield Source("stdin", _decode("stdin", sys.stdin.buffer.read()))
    elif resource.lower().startswith(("http://", "https://")):
        yield Source(resource, _decode(resource, _download(resource)))
    elif Path(resource).is_dir():
        for path in _files_below(Path(resource)):
            yield _read_file(path)
    else:
        yield _read_file(Path(resource))


def _read_file(path: Path) -> Source:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CommandError(f"{path}: cannot be read: {error.strerror or error}") from error
    return Source(str(path), _decode(str(path), content))


def _decode(name: str, content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CommandError(f"{name}: not UTF-8 text (byte {error.start})") from error


def _files_below(folder: Path) -> Iterator[Path]:
    """Every file, but hidden ones (``.git``, an editor's), in the order of their names, those of a
    subfolder where its name is; as Go's filepath.Walk, and with it Linkerd's command, goes."""
    yield from _walked(folder, set())


def _walked(folder: Path, seen: set[str]) -> Iterator[Path]:
    real = os.path.realpath(folder)
    if real in seen:
        return  # A link that leads back: its files were read already.
    seen.add(real)
    try:
        names = sorted(each.name for each in folder.iterdir() if not each.name.startswith("."))
    except OSError as error:
        raise CommandError(f"{folder}: cannot be read: {error.strerror}") from error
    for name in names:
        path = folder / name
        if path.is_dir():
            yield from _walked(path, seen)
        elif path.is_file():
            yield path


class _OnlyHttps(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never to where anyone on the way could change the manifest."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if not newurl.lower().startswith("https://"):
            fp.close()
            raise CommandError(f"{req.full_url}: redirects to {newurl}: {_ONLY_HTTPS}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _download(url: str) -> bytes:
    if not url.lower().startswith("https://"):
        raise CommandError(f"{url}: {_ONLY_HTTPS}")
    opener = urllib.request.build_opener(_OnlyHttps)
    opener.addheaders = [("User-Agent", f"meshgraft/{__version__}")]
    try:
        with opener.open(url, timeout=_TIMEOUT_SECONDS) as response:
            content: bytes = response.read(MAX_DOWNLOAD_BYTES + 1)
    except urllib.error.HTTPError as error:
        with error:
            raise CommandError(f"{url}: HTTP {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise CommandError(f"{url}: cannot be fetched: {error.reason}") from error
    except (OSError, HTTPException, ValueError) as error:
        raise CommandError(f"{url}: cannot be fetched: {error}") from error
    if len(content) > MAX_DOWNLOAD_BYTES:
        raise CommandError(f"{url}: longer than {MAX_DOWNLOAD_BYTES // 1024 // 1024} MiB")
    return content
