"""The caBundle in a webhook configuration: nothing else is touched, and no fight is picked."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from certificates.ca_bundle import (
    QUIET_SECONDS,
    Contest,
    bundles,
    last_writer,
    with_bundle,
)
from tests.injector.cert_support import configuration


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (None, ()),
        ({}, ()),
        ({"webhooks": None}, ()),
        ({"webhooks": [{"name": "a"}]}, (b"",)),
        (configuration(b"one", b""), (b"one", b"")),
        ({"webhooks": [{"clientConfig": {"caBundle": "?"}}]}, (b"?",)),
    ],
)
def test_the_bundles_are_read(found: dict[str, Any] | None, expected: tuple[bytes, ...]) -> None:
    assert bundles(found) == expected


def test_every_webhook_gets_it_and_nothing_else_changes() -> None:
    before = configuration(b"old", b"")
    given = copy.deepcopy(before)
    after = with_bundle(given, b"new")
    assert given == before
    assert bundles(after) == (b"new", b"new")
    assert with_bundle(after, b"") == with_bundle(before, b"")
    assert [each["timeoutSeconds"] for each in after["webhooks"]] == [5, 5]
    assert after["webhooks"][0]["clientConfig"]["service"] == {"name": "meshgraft-injector"}


def test_who_wrote_last_is_named() -> None:
    fields = [
        {"manager": "helm", "time": "2026-11-21T12:00:01Z"},
        {"manager": "argocd-controller", "time": "2026-11-21T12:00:02Z"},
        {"manager": "kubectl"},
    ]
    assert last_writer({"metadata": {"managedFields": fields}}) == "argocd-controller"
    assert last_writer({"metadata": {}}) == "unknown"


def test_once_is_put_back_at_once_and_a_contest_slows_down() -> None:
    contest, now, waits = Contest(), 1000.0, []
    for _ in range(10):
        waits.append(contest.wait(now))
        now += waits[-1]
        contest.written(now)
    assert waits[:2] == [0, 0]
    assert all(1 <= wait <= 30 for wait in waits[2:])
    assert waits[-1] >= 15
    assert contest.written(now) == 11
    now += QUIET_SECONDS
    assert contest.wait(now) == 0
    assert contest.written(now) == 1
