"""Parts beside the calls: a defect restarts one, and all end when they are told to."""

from __future__ import annotations

import threading

import pytest
from structlog.testing import capture_logs

from process import threads as background
from process.threads import Background, NoMoreThreads, Part
from tests.cni_plugin.shim_support import wait_until


def test_each_part_runs_until_it_is_told_to_stop() -> None:
    begun = [threading.Event(), threading.Event()]
    ended: list[int] = []

    def part(number: int) -> Part:
        def run(stop: threading.Event) -> None:
            begun[number].set()
            assert stop.wait(10)
            ended.append(number)

        return Part(f"part-{number}", run)

    parts = Background([part(0), part(1)])
    assert parts.problems() == ["the thread 'part-0' has ended", "the thread 'part-1' has ended"]
    parts.start()
    assert all(event.wait(5) for event in begun)
    assert parts.problems() == []
    parts.stop()
    assert sorted(ended) == [0, 1]
    assert parts.problems() == []


def test_a_defect_is_logged_and_the_part_starts_anew() -> None:
    runs: list[int] = []

    def run(stop: threading.Event) -> None:
        runs.append(1)
        if len(runs) < 3:
            raise RuntimeError("bug")
        stop.wait(10)

    parts = Background([Part("fragile", run)], restart_seconds=0.001)
    with capture_logs() as logs:
        parts.start()
        wait_until(lambda: len(runs) == 3)
        assert parts.problems() == []
        parts.stop()
    assert [(entry["part"], entry["log_level"]) for entry in logs] == [("fragile", "error")] * 2


def test_one_that_hangs_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "_STOP_SECONDS", 0.01)
    go_on = threading.Event()

    def hang(_: threading.Event) -> None:
        go_on.wait(10)

    parts = Background([Part("stuck", hang)])
    parts.start()
    with capture_logs() as logs:
        parts.stop()
    go_on.set()
    assert [entry["part"] for entry in logs] == ["stuck"]


def test_where_not_all_can_start_none_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[threading.Thread] = []
    start = threading.Thread.start

    def limited(thread: threading.Thread) -> None:
        if started:
            raise RuntimeError("can't start new thread")
        start(thread)
        started.append(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)

    def wait(stop: threading.Event) -> None:
        stop.wait(10)

    parts = Background([Part(name, wait) for name in "ab"])
    with pytest.raises(NoMoreThreads, match=r"thread 'b': .*pids"):
        parts.start()
    assert not started[0].is_alive()
