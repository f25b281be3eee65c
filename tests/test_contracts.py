"""The contracts between packages can fail: each is broken in a copy of the tree, and seen."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
WITHOUT = shutil.ignore_patterns("__pycache__")
PACKAGES = (
    "vocabulary",
    "process",
    "kubeapi",
    "certificates",
    "injector",
    "cni_plugin",
    "mesh",
    "meshgraft",
)

BREACHES = [
    # Between packages.
    ("vocabulary/labels.py", "import process.logs"),
    ("process/logs.py", "import kubeapi.client"),
    ("kubeapi/client.py", "import injector.core.model"),
    ("injector/core/decide.py", "import cni_plugin.spec"),
    ("cni_plugin/agent/decide.py", "import injector.core.model"),
    ("cni_plugin/install/conflist.py", "import mesh.xds.store"),
    ("injector/service/app.py", "import meshgraft.installed"),
    # Within the injector.
    ("injector/core/resolve.py", "import injector.profiles.envoy"),
    ("injector/profiles/node.py", "import injector.manifests.inject"),
    ("injector/cluster/events.py", "import injector.service.review"),
    ("certificates/keeper.py", "import injector.core.model"),
    ("mesh/xds/store.py", "import injector.core.model"),
    ("mesh/relay/socket.py", "import cni_plugin.spec"),
    # Within the plugin.
    ("cni_plugin/dataplane/rules.py", "import cni_plugin.pods.source"),
    ("cni_plugin/pods/source.py", "import cni_plugin.agent.decide"),
    ("cni_plugin/agent/decide.py", "import cni_plugin.repair.repair"),
    ("cni_plugin/init/proxy_init.py", "import cni_plugin.install.installer"),
    # What is pure.
    *(
        (path, f"import {module}")
        for path in (
            "injector/core/resolve.py",
            "injector/core/pods.py",
            "injector/core/ports.py",
            "injector/core/diff.py",
            "injector/core/schema.py",
            "injector/profiles/bootstrap.py",
            "injector/manifests/roundtrip.py",
        )
        for module in ("time", "socket")
    ),
    ("injector/core/diff.py", "import process.files"),
]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("tree")
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(ROOT / "pyproject.toml", copy)
    return copy


def _lint(tree: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-logo"]
    # The copy, and not what an editable install leads to.
    env = {**os.environ, "PYTHONPATH": str(tree)}
    return subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True, timeout=120)


def test_the_contracts_hold(tree: Path) -> None:
    run = _lint(tree)
    assert run.returncode == 0, run.stdout
    assert " 0 broken" in run.stdout


@pytest.mark.parametrize(("path", "line"), BREACHES, ids=[f"{p}: {i}" for p, i in BREACHES])
def test_a_breach_is_seen(tree: Path, path: str, line: str) -> None:
    file = tree / path
    before = file.read_text()
    file.write_text(f"{before}\n{line}\n")
    try:
        run = _lint(tree)
    finally:
        file.write_text(before)
    assert run.returncode == 1, run.stdout
    assert "BROKEN" in run.stdout
