"""What a pod's status says of the proxy that it has."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from injector.core.model import Object
from meshgraft.audit.judge import judge
from meshgraft.audit.model import Kind
from meshgraft.audit.state import stuck
from tests.audit.support import injected, mesh, pod, subject

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
FAILED = {"exitCode": 1, "reason": "Error", "message": "first\nError: not redirected\n"}


def _status(name: str, **state: Any) -> Object:
    return {"name": name, **state}


def _pod(*inits: Object, containers: tuple[Object, ...] = (), **status: Any) -> Object:
    parts = {"initContainerStatuses": list(inits), "containerStatuses": list(containers)}
    return {"spec": {"nodeName": "n1"}, "status": {**parts, **status}}


VALIDATOR = "meshgraft-network-validator"


@pytest.mark.parametrize(
    ("given", "code", "text"),
    [
        (
            _pod(_status(VALIDATOR, state={"terminated": FAILED})),
            "held-back",
            f'held back by "{VALIDATOR}" (Error): Error: not redirected',
        ),
        (
            _pod(
                _status(
                    VALIDATOR,
                    state={"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}},
                    lastState={"terminated": FAILED},
                )
            ),
            "held-back",
            f'held back by "{VALIDATOR}" (CrashLoopBackOff): Error: not redirected',
        ),
        (
            _pod(_status("linkerd-init", state={"waiting": {"reason": "ImagePullBackOff"}})),
            "proxy-does-not-start",
            'held back by "linkerd-init" (ImagePullBackOff)',
        ),
        (
            _pod(
                containers=(
                    _status("linkerd-proxy", state={"waiting": {"reason": "CrashLoopBackOff"}}),
                )
            ),
            "proxy-does-not-start",
            'held back by "linkerd-proxy" (CrashLoopBackOff)',
        ),
    ],
)
def test_what_holds_a_pod_back_is_told(given: Object, code: str, text: str) -> None:
    (reason,) = stuck(given, NOW)
    assert (reason.code, reason.text) == (code, text)
    assert reason.fix


@pytest.mark.parametrize(
    "given",
    [
        _pod(),
        {"spec": {}},
        _pod(_status(VALIDATOR, state={"terminated": {"exitCode": 0, "reason": "Completed"}})),
        _pod(_status(VALIDATOR, state={"running": {}}, lastState={"terminated": FAILED})),
        _pod(_status(VALIDATOR, state={"waiting": {"reason": "PodInitializing"}})),
        _pod(_status("app", state={"waiting": {"reason": "CrashLoopBackOff"}})),
        _pod(_status("linkerd-debug", state={"waiting": {"reason": "ImagePullBackOff"}})),
    ],
)
def test_what_goes_on_and_what_is_not_ours_is_none_of_it(given: Object) -> None:
    assert stuck(given, NOW) == ()


@pytest.mark.parametrize(
    ("seconds", "now", "told"), [(61, NOW, True), (59, NOW, False), (61, None, False)]
)
def test_a_pod_without_a_network_for_a_minute_is_told(
    seconds: int, now: datetime | None, told: bool
) -> None:
    since = (NOW - timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")
    waiting = _pod(
        phase="Pending",
        conditions=[
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": since},
            {"type": "PodReadyToStartContainers", "status": "False"},
        ],
    )
    texts = [reason.text for reason in stuck(waiting, now)]
    assert texts == ([f"without a network on node n1 for {seconds} s"] if told else [])


def test_the_audit_tells_it_before_anything_else() -> None:
    live = injected(pod())
    assert judge(subject(live), mesh()).finding is None
    live["status"] = _pod(_status(VALIDATOR, state={"terminated": FAILED}))["status"]
    finding = judge(subject(live), mesh()).finding
    assert finding
    assert finding.kind is Kind.STUCK


def test_what_does_not_go_together_is_told() -> None:
    spec = {"securityContext": {"runAsUser": 2102}}
    finding = judge(subject(injected(pod(spec=spec))), mesh()).finding
    assert finding
    assert finding.kind is Kind.CONFLICTS
    assert "proxy-uid" in finding.reasons[0].text
