"""Runs programs as cheaply as this language can, so that what is measured is theirs.

``posix_spawn`` (a vfork, so that our own size does not count), no pipes, no threads: output goes
to /dev/null, input comes from a file in memory.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

_READ = os.O_RDONLY
_NULL = "/dev/null"


@dataclass(frozen=True, slots=True)
class Command:
    """One program, and what it reads."""

    argv: Sequence[str]
    """The program's path first."""
    environment: Mapping[str, str] = field(default_factory=dict)
    stdin: str = _NULL
    """A path."""


Job = Sequence[Command]
"""Programs that run one after the other."""


class CommandFailed(RuntimeError):
    """A program that is to be measured did not do its work."""


def memory_file(content: bytes) -> int:
    """A descriptor of a file in memory; its path is `path_of`."""
    descriptor = os.memfd_create("bench")
    os.write(descriptor, content)
    return descriptor


def path_of(descriptor: int) -> str:
    """A path under which any process may open one of our descriptors."""
    return f"/proc/{os.getpid()}/fd/{descriptor}"


def run(jobs: Sequence[Job], width: int) -> list[float]:
    """Run all jobs, ``width`` at the same time; the seconds that each took as a whole.

    Raises:
        CommandFailed: a program ended with another code than 0.
    """
    seconds = [0.0] * len(jobs)
    waiting = deque(range(len(jobs)))
    running: dict[int, tuple[int, int, float]] = {}
    while waiting or running:
        while waiting and len(running) < width:
            number = waiting.popleft()
            started = time.perf_counter()
            running[_spawn(jobs[number][0])] = (number, 0, started)
        pid, status = os.waitpid(-1, 0)
        ended = time.perf_counter()
        number, step, started = running.pop(pid)
        if status != 0:
            code = os.waitstatus_to_exitcode(status)
            raise CommandFailed(f"{' '.join(jobs[number][step].argv)}: exit code {code}")
        if step + 1 < len(jobs[number]):
            running[_spawn(jobs[number][step + 1])] = (number, step + 1, started)
        else:
            seconds[number] = ended - started
    return seconds


def _spawn(command: Command) -> int:
    return os.posix_spawn(
        command.argv[0],
        list(command.argv),
        dict(command.environment),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, command.stdin, _READ, 0),
            (os.POSIX_SPAWN_OPEN, 1, _NULL, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, _NULL, os.O_WRONLY, 0),
        ],
    )
