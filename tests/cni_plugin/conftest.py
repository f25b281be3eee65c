"""Fixtures of the node half: network namespaces that are gone afterwards, whatever happens."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from meshgraft.lab.netns import Netns
from tests.cni_plugin.repair_support import Folder

_numbers = itertools.count()


@pytest.fixture
def make_netns() -> Iterator[Callable[[], Netns]]:
    """Makes fresh network namespaces, each with a name, a path and an open descriptor."""
    with ExitStack() as stack:

        def make() -> Netns:
            netns = Netns(f"mgt-{os.getpid()}-{next(_numbers)}")
            stack.callback(netns.close)
            return netns

        yield make


@pytest.fixture
def netns(make_netns: Callable[[], Netns]) -> Netns:
    """One fresh network namespace."""
    return make_netns()


@pytest.fixture
def folder(make_netns: Callable[[], Netns], tmp_path: Path) -> Folder:
    """An empty folder of network namespaces."""
    path = tmp_path / "netns"
    path.mkdir()
    return Folder(path, make_netns)
