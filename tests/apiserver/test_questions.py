"""``audit`` and ``check`` against a real API server: its defaults are no differences."""

from __future__ import annotations

import json

import pytest

from tests.apiserver.conftest import Webhook
from tests.apiserver.control_plane import ControlPlane, Object
from tests.apiserver.test_admission import ENABLED, is_injected, made, pod
from tests.commands.support import Shell


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    """Runs commands as a shell would."""
    return Shell(monkeypatch, capsys)


def ask(shell: Shell, plane: ControlPlane, *args: str) -> tuple[int, Object]:
    ended = shell(*args, "--kubeconfig", str(plane.kubeconfig), "-o", "json")
    tree: Object = json.loads(ended.stdout)
    return ended.code, tree


def test_a_pod_that_the_webhook_has_just_made_is_as_it_should_be(
    plane: ControlPlane, webhook: Webhook, shell: Shell
) -> None:
    where = made(plane, annotations=ENABLED)
    assert is_injected(plane.create(pod(where)).object)
    code, tree = ask(shell, plane, "audit", "-n", where, "--profile", "envoy")
    assert (code, tree["audited"], tree["findings"]) == (0, 1, [])


def test_a_pod_from_before_the_webhook_or_with_a_misspelt_key_is_found(
    plane: ControlPlane, webhook: Webhook, shell: Shell
) -> None:
    where = made(plane)
    plane.create(pod(where, **{"linkerd.io/injekt": "enabled"}))
    code, tree = ask(shell, plane, "audit", "-n", where, "--profile", "envoy")
    assert code == 1
    assert tree["findings"][0]["reasons"][0]["code"] == "mistyped-key"


def test_before_an_installation_the_rights_of_an_administrator_suffice(
    plane: ControlPlane, shell: Shell
) -> None:
    code, tree = ask(shell, plane, "check", "--pre")
    assert (code, tree["success"]) == (0, True)
