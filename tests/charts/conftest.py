"""The fixture ``shell``: the command line, in this process, with no cluster in reach."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands.support import Shell


@pytest.fixture
def shell(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Shell:
    """Runs commands as a shell would."""
    for variable in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return Shell(monkeypatch, capsys)
