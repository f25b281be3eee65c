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
from importlib.resources import files
from pathlib import Path
from typing import Any

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


def get(netns: Netns, host: str, port: int, count: int = 1) -> list[tuple[int, dict[str, Any]]]:
    """Requests from a client in ``netns``: the status and the described server of each.

    Raises:
        subprocess.CalledProcessError: the client failed (refused, timed out, not HTTP).
    """
    done = subprocess.run(
        netns.command(*_command("get", host, str(port), str(count))),
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    return [(answer["status"], _body(answer)) for answer in answers]


def _body(answer: dict[str, Any]) -> dict[str, Any]:
    try:
        body: dict[str, Any] = json.loads(answer["body"])
    except ValueError:
        return {"text": answer["body"]}
    return body
