"""The demo's report: what fails is said, and decides the exit code."""

from __future__ import annotations

import io

from rich.console import Console

from meshgraft.demo.report import Report


def report() -> tuple[Report, io.StringIO]:
    output = io.StringIO()
    return Report(Console(file=output, width=120)), output


def test_all_that_holds_ends_with_0() -> None:
    subject, output = report()
    subject.prove("water is wet", True, "touched it")
    subject.time("touching", 0.0015, "median of 3")
    assert subject.finish() == 0
    assert "touching: 1.5 ms (median of 3)" in output.getvalue()


def test_one_proof_that_fails_ends_with_1_and_is_named() -> None:
    subject, output = report()
    subject.prove("water is wet", True, "touched it")
    subject.prove("the moon is [cheese]", False, "it is rock")
    assert subject.finish() == 1
    assert "not shown: the moon is [cheese]" in output.getvalue()


def test_a_log_gets_no_escape_codes() -> None:
    subject, output = report()
    subject.step("a step")
    subject.prove("water is wet", False, "no")
    subject.finish()
    assert "\x1b" not in output.getvalue()
