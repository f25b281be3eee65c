"""How far a pod has come, by what the kubelet told about it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from cni_plugin.pods.status import (
    addresses,
    has_controller,
    is_about,
    is_finished,
    is_held_back,
    node_addresses,
)
from tests.cni_plugin.repair_support import CONTROLLED, FAILED, PASSED, RUNNING, at, pod

WAITING = {"waiting": {"reason": "CrashLoopBackOff"}}


@pytest.mark.parametrize(
    ("given", "held_back"),
    [
        ({"state": RUNNING}, True),
        ({"state": FAILED}, True),  # a Job's pod, before the kubelet starts it again
        ({"state": WAITING, "last": FAILED}, True),
        ({"state": {"waiting": {"reason": "PodInitializing"}}}, True),
        ({"status": {"initContainerStatuses": None}}, True),
        ({"state": PASSED}, False),
        ({"state": PASSED, "last": FAILED}, False),
        ({"spec": {"initContainers": None}}, False),
        ({"spec": {"initContainers": [{"name": "linkerd-network-validator"}]}}, True),
    ],
)
def test_a_pod_is_held_back_until_its_validator_has_passed(
    given: dict[str, Any], held_back: bool
) -> None:
    assert is_held_back(pod("10.0.0.5", **given)) is held_back


@pytest.mark.parametrize(
    ("given", "finished"),
    [
        ({}, False),
        ({"status": {"phase": "Running"}}, False),
        ({"status": {"phase": "Succeeded"}}, True),
        ({"status": {"phase": "Failed"}}, True),
        ({"deletionTimestamp": "2026-01-01T00:00:00Z"}, True),
    ],
)
def test_a_pod_that_has_ended_or_is_being_deleted_is_finished(
    given: dict[str, Any], finished: bool
) -> None:
    assert is_finished(pod("10.0.0.5", **given)) is finished


def test_addresses_are_of_both_families_and_none_on_the_nodes_network() -> None:
    found = addresses(pod("10.0.0.5", "fd00::5", status={"podIP": "10.0.0.5"}))
    assert sorted(map(str, found)) == ["10.0.0.5", "fd00::5"]
    assert addresses(pod()) == frozenset()
    assert addresses(pod("10.0.0.5", spec={"hostNetwork": True})) == frozenset()
    assert set(map(str, node_addresses(pod()))) == {"10.99.99.99"}


@pytest.mark.parametrize(
    ("owners", "controlled"), [(None, False), ([{}], False), (CONTROLLED, True)]
)
def test_only_a_controller_makes_a_pod_anew(owners: Any, controlled: bool) -> None:
    assert has_controller(pod(ownerReferences=owners)) is controlled


NETNS = 1_800_000_000.7
NOW = NETNS + 86_400
BEFORE, THEN, AFTER = at(NETNS - 1), at(NETNS), at(NETNS + 5)


def _ended(started: str | None, finished: str | None) -> dict[str, Any]:
    """As the API server shows it: null where the kubelet does not know."""
    return {"terminated": {"exitCode": 137, "startedAt": started, "finishedAt": finished}}


@pytest.mark.parametrize(
    ("given", "about"),
    [
        ({"state": {"running": {"startedAt": AFTER}}}, True),
        ({"state": {"running": {"startedAt": THEN}}}, True),  # the API's times are cut to seconds
        ({"state": {"running": {"startedAt": BEFORE}}}, False),
        ({"state": WAITING, "last": _ended(AFTER, AFTER)}, True),
        ({"state": WAITING, "last": _ended(BEFORE, BEFORE)}, False),
        # It ran in an earlier sandbox, and ended with that.
        ({"state": WAITING, "last": _ended(BEFORE, AFTER)}, False),
        # A container that the kubelet does not find after the node's restart: exit code 137,
        # ContainerStatusUnknown.
        ({"state": WAITING, "last": _ended(None, None)}, False),
        ({"state": _ended(None, None)}, False),
        ({"state": {"running": {"startedAt": None}}}, False),
        # A list that somebody wrote.
        ({"state": {"running": {}}}, True),
        ({"state": {"terminated": {"exitCode": 95}}}, True),
        ({"state": WAITING}, False),
        ({"state": {"running": {"startedAt": "yesterday"}}}, False),
        (
            {
                "state": WAITING,
                "status": {
                    "conditions": [
                        {
                            "type": "PodReadyToStartContainers",
                            "status": "True",
                            "lastTransitionTime": AFTER,
                        }
                    ]
                },
            },
            True,
        ),
        (
            {
                "state": WAITING,
                "status": {
                    "conditions": [
                        {"type": "PodScheduled", "status": "True", "lastTransitionTime": AFTER}
                    ]
                },
            },
            False,
        ),
        (
            {
                "state": WAITING,
                "status": {
                    "containerStatuses": [
                        {"name": "app", "state": {"running": {"startedAt": AFTER}}}
                    ]
                },
            },
            True,
        ),
    ],
)
def test_a_status_from_before_a_namespace_was_made_is_not_about_it(
    given: dict[str, Any], about: bool
) -> None:
    assert is_about(pod("10.0.0.5", **given), NETNS, NOW) is about


def test_a_status_from_the_future_is_not_believed() -> None:
    """The node's clock was ahead before it was started again."""
    running = {"containerStatuses": [{"name": "app", "state": {"running": {"startedAt": AFTER}}}]}
    told = pod("10.0.0.5", state=WAITING, status=running)
    after = datetime.fromisoformat(AFTER).timestamp()
    assert is_about(told, NETNS, after)
    assert not is_about(told, NETNS, after - 60)
