"""Runs the command line within this process, as a shell would."""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshgraft import cli


@dataclass(frozen=True)
class Run:
    """What a command printed, and its exit code."""

    code: int
    stdout: str
    stderr: str

    @property
    def documents(self) -> list[Any]:
        """The YAML documents of stdout, without empty ones."""
        return [document for document in yaml.safe_load_all(self.stdout) if document is not None]


class Shell:
    """``shell("inject", "-", stdin="...")`` runs ``meshgraft inject -``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *args: str | Path, stdin: str | bytes = "") -> Run:
        """Run a command to its end."""
        content = stdin.encode() if isinstance(stdin, str) else stdin
        self._monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main([str(arg) for arg in args])
        printed = self._capsys.readouterr()
        code = ended.value.code
        assert isinstance(code, int) or code is None
        return Run(code or 0, printed.out, printed.err)
