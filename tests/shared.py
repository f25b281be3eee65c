"""Data of other projects that stands beside this repository, and is never copied into it."""

from __future__ import annotations

from pathlib import Path

import pytest

_SHARED = Path(__file__).resolve().parent.parent.parent / "shared"


def conformance_dir(suite: str) -> Path | None:
    """The folder of a suite of conformance cases, None where it is absent."""
    folder = _SHARED / "data" / "conformance" / suite
    return folder if folder.is_dir() else None


def conformance_cases(suite: str) -> list[str]:
    """The names of a suite's cases; empty where the suite is absent."""
    folder = conformance_dir(suite)
    return sorted(path.parent.name for path in folder.glob("*/case.json")) if folder else []


def require_conformance(suite: str) -> Path:
    """The folder of a suite; the test is skipped by name where it is absent."""
    folder = conformance_dir(suite)
    if folder is None:
        pytest.skip("conformance data (../shared) is not here")
    return folder
