"""The fixture ``shell``: the command line, in this process."""

from __future__ import annotations

import pytest

from tests.commands.support import Shell


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    """Runs commands as a shell would, with no registry in the environment."""
    monkeypatch.delenv("LINKERD_DOCKER_REGISTRY", raising=False)
    return Shell(monkeypatch, capsys)
