"""``meshgraft demo`` as a user runs it: whole, interrupted, and without root."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from meshgraft.commands.demo import demo
from meshgraft.lab.lab import PREFIX, missing_requirements, sweep
from meshgraft.lab.netns import RUN_NETNS

COMMAND = [sys.executable, "-m", "meshgraft", "demo"]


@pytest.fixture
def _machine() -> None:
    missing = missing_requirements()
    if missing:
        pytest.skip("the demo needs " + "; ".join(missing))


@pytest.mark.root
@pytest.mark.usefixtures("_machine")
@pytest.mark.parametrize("mode", ["nft", "legacy"])
def test_it_shows_everything_and_leaves_nothing(mode: str, tmp_path: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, "--iptables-mode", mode],
        stdout=subprocess.PIPE,
        text=True,
        env={**_clean_environment(), "TMPDIR": str(tmp_path)},
    ) as process:
        output, _ = process.communicate(timeout=100)
    assert process.returncode == 0, output
    assert len(re.findall(r"^  ok ", output, re.M)) == 22
    assert "FAIL" not in output
    assert "\x1b" not in output
    assert not list(RUN_NETNS.glob(f"{PREFIX}-{process.pid}-*"))
    assert not list(tmp_path.iterdir())


@pytest.mark.root
@pytest.mark.usefixtures("_machine")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_nothing(number: int, tmp_path: Path) -> None:
    with subprocess.Popen(
        COMMAND,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
        env={**_clean_environment(), "TMPDIR": str(tmp_path)},
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("3. "):
                break
        process.send_signal(number)
        output = process.stdout.read()
        assert process.wait(30) == 130, output
    assert "interrupted" in output
    assert not list(RUN_NETNS.glob(f"{PREFIX}-{process.pid}-*"))
    assert not list(tmp_path.iterdir())


@pytest.mark.root
@pytest.mark.usefixtures("_machine")
def test_killed_it_leaves_no_process_and_the_next_one_sweeps_up(tmp_path: Path) -> None:
    with subprocess.Popen(
        COMMAND,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
        env={**_clean_environment(), "TMPDIR": str(tmp_path)},
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("4. "):
                break
        process.kill()
    deadline = time.monotonic() + 10
    while _using(tmp_path):
        assert time.monotonic() < deadline, _using(tmp_path)
        time.sleep(0.05)
    assert list(RUN_NETNS.glob(f"{PREFIX}-{process.pid}-*"))
    sweep()
    assert not list(RUN_NETNS.glob(f"{PREFIX}-{process.pid}-*"))


def _using(folder: Path) -> list[str]:
    """Processes that write their logs into a folder."""
    found = []
    for descriptor in Path("/proc").glob("[0-9]*/fd/1"):
        with contextlib.suppress(OSError):
            if str(descriptor.readlink()).startswith(str(folder)):
                found.append(str(descriptor))
    return found


def test_without_root_it_says_so_and_shows_the_webhook(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("signal.signal", lambda *_: None)  # the handlers are the test run's own
    assert demo() == 0
    output = capsys.readouterr().out
    assert "an annotated pod is patched with a proxy" in output
    assert "root: network namespaces" in output


def _clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "FORCE_COLOR"}
