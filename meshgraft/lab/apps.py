"""Runs the lab's application in a pod: another user than the proxy's, with no rights at all."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from meshgraft.lab import LabError
from meshgraft.lab.netns import Netns
from meshgraft.lab.process import Process, unprivileged

APP_UID = 1000


def _interpreter() -> str:
    """An interpreter that any user can run; a virtual environment may lie below /root."""
    system = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    return system or os.path.realpath(sys.executable)


def _command(*argv: str) -> list[str]:
    source = (files("meshgraft.lab") / "app.py").read_text()
    return unprivileged(APP_UID, _interpreter(), "-I", "-c", source, *argv)


@contextlib.contextmanager
def serving_app(netns: Netns, name: str, log: Path, *ports: int) -> Iterator[Process]:
    """A server on these ports, for the length of the block."""
    process = Process(
        f"app of {name}",
        netns.command(*_command("serve", *map(str, ports))),
        log,
        env={"POD_NAME": name, "PATH": os.environ.get("PATH", "")},
    )
    try:
        for port in ports:
            process.wait_for(functools.partial(_listens, netns, port), f"port {port}")
        yield process
    finally:
        process.stop()


def _listens(netns: Netns, port: int) -> bool:
    netns.connect("127.0.0.1", port).close()
    return True


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client got: the status, and the body (what the server said of itself)."""

    status: int
    body: dict[str, Any]


class ClientError(LabError):
    """A client got no answer; the text has the last that it said."""


def get(netns: Netns, host: str, port: int, count: int = 1) -> list[Answer]:
    """Requests from a client in ``netns``, one after the other, each on its own connection.

    Raises:
        ClientError: one of them failed (refused, timed out, not HTTP).
    """
    done = subprocess.run(
        netns.command(*_command("get", host, str(port), str(count))),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:]
        raise ClientError(f"from {netns.name} to {host} port {port}: {' '.join(last)}")
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    return [Answer(answer["status"], _body(answer["body"])) for answer in answers]


def _body(text: str) -> dict[str, Any]:
    try:
        body: dict[str, Any] = json.loads(text)
    except ValueError:
        return {"text": text}
    return body
