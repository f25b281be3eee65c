"""Requests to an API server that is busy; more of it is tested with what stands on them."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from kubeapi.client import ApiServer, ApiServerError, is_name
from kubeapi.config import load_config
from tests.kubeapi.fake_apiserver import Fault, running


@pytest.mark.parametrize(
    ("faults", "text"),
    [
        ([Fault(lambda _: True, until=asyncio.Event())], r"did not answer within 0\.5 s"),
        (
            [
                Fault(lambda _: True, status=503),
                Fault(lambda _: True, until=asyncio.Event()),
            ],
            "with 503: as the test wants it",
        ),
        ([Fault(lambda _: True, status=429, retry_after="30")], "with 429"),
    ],
    ids=["silent", "busy and then silent", "told to come back too late"],
)
def test_an_answer_that_comes_too_late_says_what_went_wrong(
    tmp_path: Path, faults: list[Fault], text: str
) -> None:
    async def test() -> None:
        async with running(faults=faults) as server:
            api = ApiServer(load_config(server.kubeconfig(tmp_path)), "meshgraft-test")
            started = time.monotonic()
            with pytest.raises(ApiServerError, match=text):
                await api.get_within("api/v1/namespaces/a", accept="application/json", seconds=0.5)
            assert time.monotonic() - started < 5
            assert server.asked[0].headers["user-agent"] == "meshgraft-test"
            await api.close()

    asyncio.run(test())


@pytest.mark.parametrize(
    ("status", "cause", "is_passing"),
    [
        (0, "unreachable", True),
        (401, "denied", False),
        (403, "denied", False),
        (404, "other", False),
        (410, "expired", False),
        (429, "throttled", True),
        (500, "other", True),
    ],
)
def test_what_an_error_means(status: int, cause: str, is_passing: bool) -> None:
    error = ApiServerError("text", status=status)
    assert (error.cause, error.is_passing) == (cause, is_passing)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("web-0", True), ("a.b", True), ("", False), ("..", False), ("a/b", False), ("a%2fb", False)],
)
def test_names_lead_to_no_other_path(text: str, expected: bool) -> None:
    assert is_name(text) is expected


@pytest.mark.parametrize(
    ("status", "said", "seconds"),
    [(429, "7", 7.0), (429, "99999", 60.0), (429, "soon", 1.0), (503, "", 0.0)],
)
def test_how_long_the_api_server_asks_to_wait_is_read_and_bounded(
    tmp_path: Path, status: int, said: str, seconds: float
) -> None:
    async def test() -> None:
        fault = Fault(lambda _: True, status=status, retry_after=said)
        async with running(faults=[fault]) as server:
            api = ApiServer(load_config(server.kubeconfig(tmp_path)))
            with pytest.raises(ApiServerError) as refused:
                await api.get("api/v1/namespaces/a", accept="application/json")
            assert refused.value.retry_after == seconds
            await api.close()

    asyncio.run(test())
