"""The thread that asks the API server: it starts and ends whatever the API server does."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from cni_plugin.pods import api_thread
from cni_plugin.pods.api_thread import ApiThread
from kubeapi.client import ApiServer, ApiServerError
from kubeapi.config import load_config
from process.threads import NoMoreThreads
from tests.kubeapi.fake_apiserver import FakeApiServer


@pytest.fixture
def api(tmp_path: Path) -> ApiThread:
    """Nobody listens at its address."""
    return ApiThread(ApiServer(load_config(FakeApiServer(port=1).kubeconfig(tmp_path))))


async def forever() -> None:
    await asyncio.Event().wait()


def test_it_starts_asks_and_ends_without_an_api_server(api: ApiThread) -> None:
    api.keep("watch", forever)
    api.start()
    assert api.is_alive()
    with pytest.raises(ApiServerError, match="does not answer"):
        api.ask(api.api.get("version", accept="application/json"), seconds=5)
    api.stop()
    assert not api.is_alive()


def test_an_answer_that_does_not_come_is_given_up(
    api: ApiThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_thread, "_SPARE_SECONDS", 0.0)
    api.start()
    with pytest.raises(ApiServerError, match=r"127\.0\.0\.1:1 took too long"):
        api.ask(forever(), seconds=0.01)
    api.stop()


def test_one_that_never_started_can_be_stopped(api: ApiThread) -> None:
    api.stop()
    assert not api.is_alive()


def test_no_thread_to_be_had_is_a_sentence(api: ApiThread, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    with pytest.raises(NoMoreThreads, match=r"cannot start the thread .*pids"):
        api.start()
