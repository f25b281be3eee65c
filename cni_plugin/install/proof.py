"""Proves that the installed program runs on this node, before any configuration names it."""

from __future__ import annotations

import errno
import json
import subprocess
from pathlib import Path

from cni_plugin.install.host_files import HostFileError

_SECONDS = 10.0
_REQUEST = json.dumps({"cniVersion": "1.0.0"}).encode()
_HINTS = {
    errno.EACCES: "the folder may be mounted noexec, or SELinux may forbid it",
    errno.ENOEXEC: "the image may be for another architecture than the node",
    errno.ENOENT: "the image may be for another architecture than the node",
}


def prove(program: Path) -> None:
    """Run the program once, for its VERSION, which asks nobody and changes nothing.

    A folder that is mounted noexec, another architecture or SELinux would else be found out by
    every pod of the node, which the runtime could not start. Source: CNI spec 1.1, VERSION.

    Raises:
        HostFileError: it does not run, or does not answer as a plugin does.
    """
    try:
        ended = subprocess.run(
            [program],
            input=_REQUEST,
            capture_output=True,
            env={"CNI_COMMAND": "VERSION"},
            timeout=_SECONDS,
            check=False,
        )
    except OSError as error:
        hint = _HINTS.get(error.errno or 0, "see the kernel's log")
        raise HostFileError(
            f"{program}: cannot be run: {error.strerror}; {hint}. No configuration names it"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise HostFileError(
            f"{program}: did not say its version within {_SECONDS:g} s. No configuration names it"
        ) from error
    if ended.returncode or not _is_answer(ended.stdout):
        said = (ended.stdout + ended.stderr).decode(errors="replace").strip()[:200]
        raise HostFileError(
            f"{program}: does not say its version (status {ended.returncode}): {said!r}. "
            "No configuration names it"
        )


def _is_answer(raw: bytes) -> bool:
    try:
        answer = json.loads(raw)
    except ValueError:
        return False
    return isinstance(answer, dict) and bool(answer.get("supportedVersions"))
