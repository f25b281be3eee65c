"""Programs that run beside the lab and end with it: no capabilities where asked, logs in a file."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from meshgraft.lab import LabError

T = TypeVar("T")


class NotReady(LabError):
    """Something did not come up in time, or ended instead; the text has the end of its log."""


_DIES_WITH_PARENT = ("--pdeathsig", "TERM")


def unprivileged(uid: int, *argv: str) -> list[str]:
    """``argv`` as another user with every capability set empty and no way to regain one."""
    return [
        "setpriv",
        f"--reuid={uid}",
        f"--regid={uid}",
        "--clear-groups",
        "--bounding-set=-all",
        "--inh-caps=-all",
        "--ambient-caps=-all",
        "--no-new-privs",
        *_DIES_WITH_PARENT,  # again: a change of user takes it away
        "--",
        *argv,
    ]


class Process:
    """A running program: its output goes to ``log``; `stop` ends it and only it.

    It does not outlive us, even if we are killed before we can stop it.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        """Start it."""
        self.name = name
        self.log = log
        with log.open("wb") as output:
            self._popen = subprocess.Popen(
                ["setpriv", *_DIES_WITH_PARENT, "--", *argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=env,
                pass_fds=pass_fds,
            )

    @property
    def pid(self) -> int:
        """The process id; nsenter and setpriv replace themselves, so it is the program's own."""
        return self._popen.pid

    def wait_for(self, probe: Callable[[], T | None], what: str, timeout: float = 15.0) -> T:
        """Ask ``probe`` until it gives something, for at most ``timeout`` seconds.

        Raises:
            NotReady: the time is over, or the program ended.
        """
        deadline = time.monotonic() + timeout
        while True:
            with contextlib.suppress(OSError):
                found = probe()
                if found is not None:
                    return found
            if self._popen.poll() is not None:
                raise NotReady(f"{self.name} ended with {self._popen.returncode}{self._tail()}")
            if time.monotonic() > deadline:
                raise NotReady(f"{self.name}: {what} not within {timeout:g} s{self._tail()}")
            time.sleep(0.01)

    def kill(self, number: int = signal.SIGTERM) -> None:
        """Send a signal to this process."""
        self._popen.send_signal(number)

    def wait(self, timeout: float = 15.0) -> int:
        """Wait for its end and give back the exit code."""
        return self._popen.wait(timeout)

    def stop(self, grace: float = 5.0) -> None:
        """SIGTERM, and SIGKILL after ``grace`` seconds."""
        if self._popen.poll() is not None:
            return
        self._popen.terminate()
        try:
            self._popen.wait(grace)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()

    def _tail(self, lines: int = 20) -> str:
        text = self.log.read_text(errors="replace").splitlines()[-lines:]
        return ":\n  " + "\n  ".join(text) if text else " (it printed nothing)"
