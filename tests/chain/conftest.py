"""What the tests here share: a node's network, its agent, and a containerd."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from meshgraft.lab.netns import Netns

_numbers = itertools.count()


@pytest.fixture(scope="module")
def make_netns() -> Iterator[Callable[[], Netns]]:
    """Makes fresh network namespaces, which are gone when the module's tests are done."""
    with ExitStack() as stack:

        def make() -> Netns:
            netns = Netns(f"mgc-{os.getpid()}-{next(_numbers)}")
            stack.callback(netns.close)
            return netns

        yield make
