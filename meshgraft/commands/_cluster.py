"""How commands for people reach a cluster: kubectl's ways, in kubectl's order."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from lightkube.config.kubeconfig import SingleConfig

from kubeapi.client import ApiServer
from kubeapi.config import KubeconfigError, in_cluster, load_config
from meshgraft._errors import CommandError
from vocabulary.annotations import BadValue, parse_duration

_T = TypeVar("_T")
_SELECTOR = re.compile(r"[\w./()!=,\s-]+", re.ASCII)


class CancelledByUserError(CommandError):
    """Somebody pressed Ctrl-C; the exit code is a shell's."""

    exit_code = 130


def find_cluster(kubeconfig: Path | None, context: str | None) -> SingleConfig:
    """The cluster of ``--kubeconfig``, else of $KUBECONFIG, else of ~/.kube/config, else the one
    that this runs in.

    Raises:
        KubeconfigError: none of them is there, or it is not usable.
    """
    path = kubeconfig or _from_environment()
    if path is None and not in_cluster():
        raise KubeconfigError(
            "no cluster is named: give --kubeconfig FILE, set KUBECONFIG, or make ~/.kube/config"
        )
    return load_config(path, context)


def _from_environment() -> Path | None:
    named = [Path(name) for name in os.environ.get("KUBECONFIG", "").split(os.pathsep) if name]
    present = [path for path in named if path.exists()]
    if len(present) > 1:
        # kubectl would merge them.
        raise KubeconfigError("KUBECONFIG names several files; name one with --kubeconfig FILE")
    if named:
        return (present or named)[0]
    default = Path.home() / ".kube" / "config"
    return default if default.exists() else None


def with_api(config: SingleConfig, work: Callable[[ApiServer], Awaitable[_T]]) -> _T:
    """What the work comes to, with a connection that is closed afterwards.

    Raises:
        KubeconfigError: the configuration's certificates are not usable.
        ApiServerError: as the work does.
        CancelledByUserError: Ctrl-C.
    """

    async def run() -> _T:
        api = ApiServer(config, "meshgraft")
        try:
            return await work(api)
        finally:
            await api.close()

    try:
        return asyncio.run(run())
    except KeyboardInterrupt:
        raise CancelledByUserError("interrupted") from None


def seconds(flag: str, text: str) -> float:
    """A flag's duration as Go writes it (``5m``), in seconds.

    Raises:
        CommandError: it is none.
    """
    try:
        return parse_duration(text).nanoseconds / 1e9
    except BadValue as error:
        raise CommandError(f"{flag} {text!r}: expected {error}") from error


def emit(text: str) -> None:
    """Write to stdout; whoever reads may stop when they have seen enough (``| head``)."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # Else the interpreter trips over it again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def check_selector(text: str | None) -> str:
    """A label selector for the API server, which parses it.

    Raises:
        CommandError: it holds what no selector does.
    """
    if text and not _SELECTOR.fullmatch(text):
        raise CommandError(f"--selector {text!r}: expected labels, as in app=web,tier!=cache")
    return text or ""
