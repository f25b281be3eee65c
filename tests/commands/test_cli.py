"""The command line as it is without an extra: a sentence, and no traceback."""

from __future__ import annotations

import subprocess
import sys

import pytest

_WITHOUT = """
import sys
sys.modules[sys.argv.pop(1)] = None
from meshgraft.cli import main
main()
"""


def run_without(package: str, *words: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-c", _WITHOUT, package, *words]
    return subprocess.run(line, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("words", [["cni-agent"], ["cni-agent", "--help"]])
def test_the_node_half_names_the_extra_that_it_lacks(words: list[str]) -> None:
    done = run_without("pyroute2", *words)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: the Python package pyroute2 is not here: install")
    assert done.stderr.count("\n") == 1


def test_another_module_that_is_not_there_is_a_defect_and_shown_whole() -> None:
    done = run_without("meshgraft.commands._cni_repair", "cni-agent")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
