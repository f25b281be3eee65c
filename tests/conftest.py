"""What all tests share: fast ones first, and what a machine lacks skipped by name."""

from __future__ import annotations

import os

import pytest

_SLOW_FOLDERS = ("apiserver", "dataplane", "cni_plugin", "demo")
"""Folders whose tests start processes or make namespaces; the others come first."""


def pytest_configure() -> None:
    """Have the usual umask: the modes of what is made are among what tests expect."""
    os.umask(0o022)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the tests, and skip those that need root where we are not."""
    items.sort(key=_rank)
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root: makes network namespaces"))


def _rank(item: pytest.Item) -> tuple[int, int]:
    folder = item.path.parent.name
    return (bool(item.get_closest_marker("root")), folder in _SLOW_FOLDERS)
