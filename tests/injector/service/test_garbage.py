"""What the garbage collector has to do: nothing for a review, and never twice for what stays."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from injector.service.server import Process
from meshgraft.commands.webhook import webhook
from tests.injector.running import DATA, REVIEW, connected

REVIEWS = 1000
HEAD = b"POST /mutate?timeout=10s HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(REVIEW)


@pytest.fixture
def _collector() -> Iterator[None]:
    threshold = gc.get_threshold()
    yield
    gc.set_debug(0)
    gc.garbage.clear()
    gc.set_threshold(*threshold)
    gc.unfreeze()
    gc.enable()


@pytest.mark.usefixtures("_collector")
@pytest.mark.parametrize("profile", ["envoy", "linkerd"])
def test_reviews_leave_no_cycles_behind(
    profile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Process] = []
    monkeypatch.setattr(Process, "run", lambda process: made.append(process))
    webhook(
        profile=profile,
        offline_objects=DATA / "namespaces.json",
        cert_dir=tmp_path,
        log_level="error",
    )

    async def talk() -> Counter[str]:
        async with connected(made[0].webhook) as (reader, writer):
            for number in range(100 + REVIEWS):
                if number == 100:
                    gc.collect()
                    gc.disable()
                writer.write(HEAD + REVIEW)
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
                assert b"JSONPatch" in await reader.readexactly(length)
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            return Counter(type(each).__qualname__ for each in gc.garbage)

    found = asyncio.run(talk())
    assert found.total() < REVIEWS / 10, found.most_common(10)


def test_what_is_there_at_the_start_is_not_walked_again() -> None:
    code = (
        "import gc, injector.service.app; from process.heap import settle; before = gc.get_count;"
        "settle(); print(gc.get_freeze_count(), len(gc.get_objects()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    frozen, walked = map(int, done.stdout.split())
    assert frozen > 50_000
    assert walked < 100
