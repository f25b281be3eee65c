"""Fixtures of the injector's tests: a webhook process that is gone afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from injector.service.server import parse_address
from tests.injector.running import SECONDS, Running, start_webhook


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Starts a process that is serving when it is handed over, and ends it afterwards."""
    started: list[Running] = []

    def serving(*flags: str) -> Running:
        running = start_webhook(tmp_path, *flags)
        started.append(running)
        line = running.wait_for("serving")
        running.address = parse_address(line["address"])
        running.metrics_address = parse_address(line["metricsAddress"])
        return running

    yield serving
    for running in started:
        running.process.kill()
        running.process.wait(SECONDS)
        assert running.process.stderr is not None
        running.process.stderr.close()
