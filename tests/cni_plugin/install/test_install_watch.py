"""The installer's loop: a real inotify, and what becomes of it without one."""

from __future__ import annotations

import contextlib
import json
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from cni_plugin.install import watch as install_watch
from cni_plugin.install.installer import Installer, InstallSettings
from cni_plugin.install.watch import WatchTimes, keep_reconciled

PATIENCE = 20.0
TIMES = WatchTimes(settle=0.02, longest_settle=0.2, tick=0.1, poll=600.0, blind_poll=0.05)
"""No poll: what is told of in these tests came from inotify, unless the test says so."""


class Beats:
    """Counts beats; `next` waits for one."""

    def __init__(self, answers: Sequence[float | None] = ()) -> None:
        self.queue: queue.Queue[float] = queue.Queue()
        self.answers = list(answers)

    def __call__(self) -> float | None:
        self.queue.put(time.monotonic())
        return self.answers.pop(0) if self.answers else None

    def next(self) -> float:
        return self.queue.get(timeout=PATIENCE)


@contextlib.contextmanager
def running(
    beat: Callable[[], float | None], *folders: Path, times: WatchTimes = TIMES
) -> Iterator[threading.Event]:
    """The loop in a thread; that it ends when it is told to is part of every test."""
    stop = threading.Event()
    thread = threading.Thread(
        target=keep_reconciled, args=(lambda: folders, beat, stop, times), daemon=True
    )
    thread.start()
    try:
        yield stop
    finally:
        stop.set()
        thread.join(PATIENCE)
        assert not thread.is_alive()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "did not come true in time"
        pause.wait(0.01)


def test_it_looks_at_once_and_once_more_when_the_watch_stands(tmp_path: Path) -> None:
    beats = Beats()
    with running(beats, tmp_path):
        beats.next()
        beats.next()
        with pytest.raises(queue.Empty):
            beats.queue.get(timeout=0.5)


@pytest.mark.parametrize("change", ["written", "renamed", "removed"])
def test_a_change_is_told_of_by_inotify(tmp_path: Path, change: str) -> None:
    file = tmp_path / "a.conflist"
    if change != "written":
        file.write_text("{}")
    beats = Beats()
    with running(beats, tmp_path):
        beats.next()
        beats.next()
        if change == "written":
            file.write_text("{}")
        elif change == "renamed":
            file.rename(tmp_path / "b.conflist")
        else:
            file.unlink()
        beats.next()


def test_our_own_temporary_files_are_no_news(tmp_path: Path) -> None:
    beats = Beats()
    with running(beats, tmp_path):
        beats.next()
        beats.next()
        (tmp_path / ".a.conflist.x.install").write_text("{}")
        with pytest.raises(queue.Empty):
            beats.queue.get(timeout=0.5)


def test_it_looks_again_when_it_was_asked_to(tmp_path: Path) -> None:
    beats = Beats([None, 0.3, None])
    with running(beats, tmp_path):
        beats.next()
        second = beats.next()
        assert beats.next() - second >= 0.3


def test_it_looks_from_time_to_time_in_any_case(tmp_path: Path) -> None:
    beats = Beats()
    times = WatchTimes(settle=0.02, longest_settle=0.2, tick=0.05, poll=0.1)
    with running(beats, tmp_path, times=times):
        for _ in range(5):
            beats.next()


def test_a_folder_put_in_anothers_place_is_watched_instead(tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    beats = Beats()
    with running(beats, folder):
        beats.next()
        beats.next()
        folder.rename(tmp_path / "old")
        folder.mkdir()
        beats.next()
        beats.next()
        while not beats.queue.empty():
            beats.next()
        (folder / "linkerd-cni").write_text("x")
        beats.next()


def test_a_folder_that_comes_late_is_looked_at(tmp_path: Path) -> None:
    folder = tmp_path / "net.d"
    beats = Beats()
    with capture_logs() as logs, running(beats, folder):
        beats.next()
        beats.next()
        folder.mkdir()
        (folder / "a").write_text("x")
        beats.next()
    assert [log["error"] for log in logs] == ["none of the folders is there"]


def test_without_inotify_it_polls_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_paths: Path, **_options: object) -> Iterator[set[object]]:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(install_watch, "watch", refuse)
    beats = Beats()
    with capture_logs() as logs, running(beats, tmp_path):
        for _ in range(4):
            beats.next()
    assert [log["log_level"] for log in logs] == ["warning"]
    assert "Too many open files" in logs[0]["error"]


def test_an_unexpected_error_does_not_end_the_loop(tmp_path: Path) -> None:
    beats = Beats()

    def beat() -> float | None:
        beats()
        raise ZeroDivisionError

    with capture_logs() as logs, running(beat, tmp_path):
        beats.next()
        beats.next()
        (tmp_path / "a").write_text("x")
        beats.next()
    assert {log["log_level"] for log in logs} == {"error"}


def test_it_stops_promptly(tmp_path: Path) -> None:
    beats = Beats()
    slow = WatchTimes(tick=60.0, poll=60.0)
    with running(beats, tmp_path, times=slow) as stop:
        beats.next()
        started = time.monotonic()
        stop.set()
    assert time.monotonic() - started < 5.0


def test_the_installer_holds_its_own_against_a_primary_that_comes_late_and_rewrites(
    tmp_path: Path,
) -> None:
    net, bin_dir = tmp_path / "etc/cni/net.d", tmp_path / "opt/cni/bin"
    net.mkdir(parents=True)
    bin_dir.mkdir(parents=True)
    source = tmp_path / "linkerd-cni"
    source.write_bytes(b"program")
    path = net / "10-a.conflist"
    plain = json.dumps({"name": "net", "cniVersion": "1.0.0", "plugins": [{"type": "bridge"}]})

    def chained() -> bool:
        return b"linkerd-cni" in path.read_bytes() and (bin_dir / "linkerd-cni").exists()

    installer = Installer(
        InstallSettings(program=source, host_prefix=tmp_path), prove=lambda _: None
    )
    stop = threading.Event()
    thread = threading.Thread(target=installer.run, args=(stop,), daemon=True)
    thread.start()
    try:
        until((bin_dir / "linkerd-cni").exists)
        assert installer.ready is None
        path.write_text(plain[:20])
        until(lambda: any("half" in problem for problem in installer.problems))
        path.write_text(plain)
        until(chained)
        path.write_text(plain)
        until(chained)
        (bin_dir / "linkerd-cni").unlink()
        until(chained)
        until(lambda: installer.ready == "10-a.conflist" and not installer.problems)
    finally:
        stop.set()
        thread.join(PATIENCE)
    assert not thread.is_alive()
    assert chained()  # SIGTERM of an upgrade leaves all in place
    assert not installer.uninstall().problems
    assert json.loads(path.read_text()) == json.loads(plain)
    assert list(bin_dir.iterdir()) == []
