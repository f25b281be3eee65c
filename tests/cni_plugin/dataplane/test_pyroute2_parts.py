"""What is imported of pyroute2, and that the order of imports does not matter."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("code", "answer"),
    [
        ("import cni_plugin.dataplane.nft, sys; print('pyroute2.ndb' in sys.modules)", "False"),
        (
            "import pyroute2, cni_plugin.dataplane.nft, sys; print(hasattr(pyroute2, 'IPRoute'))",
            "True",
        ),
    ],
    ids=["alone", "after all of it"],
)
def test_the_rest_of_pyroute2_is_not_loaded_and_not_taken_away(code: str, answer: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.strip() == answer
