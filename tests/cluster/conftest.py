"""The tests of this folder need a cluster that may be changed, and say so where there is none."""

from __future__ import annotations

import pytest

from tests.cluster.cluster import missing


@pytest.fixture(scope="session", autouse=True)
def _cluster() -> None:
    if lacking := missing():
        pytest.skip(f"no cluster to try: not given: {', '.join(lacking)}")
