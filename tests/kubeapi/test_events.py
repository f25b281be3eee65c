"""Events: what the API server takes, whatever the object's name and the message."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from kubeapi.client import is_name
from kubeapi.events import About, Reporter, event_object

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def about(name: str) -> About:
    return About(api_version="v1", kind="Pod", namespace="shop", name=name, uid="u")


@pytest.mark.parametrize("name", ["web", "a" * 253, "a" * 230 + "." * 5 + "b" * 18])
def test_the_name_is_one_whatever_the_objects_is(name: str) -> None:
    event = event_object(
        about(name), Reporter("r"), NOW, kind="Normal", reason="R", message="é" * 1000
    )
    assert is_name(event["metadata"]["name"])
    assert event["involvedObject"]["name"] == name
    assert event["message"] == "é" * 512


def test_who_has_no_instances_reports_as_the_component() -> None:
    event = event_object(
        about("web"), Reporter("r"), NOW, kind="Warning", reason="R", message="m", action="A"
    )
    assert (event["reportingComponent"], event["reportingInstance"]) == ("r", "r")
    assert (event["action"], event["lastTimestamp"]) == ("A", "2026-01-02T03:04:05Z")
