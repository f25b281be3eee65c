"""What a wheel installs: one name at the top, and nobody's files in its place."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "-w",
        str(folder),
        str(ROOT),
    ]
    subprocess.run(command, check=True, timeout=300, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_one_name_stands_at_the_top(installed: Path) -> None:
    names = {path.name for path in installed.iterdir() if path.suffix != ".dist-info"}
    assert names == {"meshgraft"}
    brought = {path.name for path in (installed / "meshgraft/_packages").iterdir()}
    assert brought == {
        "vocabulary",
        "process",
        "kubeapi",
        "certificates",
        "injector",
        "cni_plugin",
        "mesh",
    }


def test_anothers_injector_stays_and_is_not_taken_for_ours(installed: Path, tmp_path: Path) -> None:
    other = tmp_path / "injector"
    other.mkdir()
    (other / "__init__.py").write_text("raise ImportError('another package of that name')")
    code = (
        f"import sys; sys.path[:] = [p for p in sys.path if p != {str(ROOT)!r}];"
        f"sys.path[0:0] = [{str(tmp_path)!r}, {str(installed)!r}];"
        "import meshgraft; from meshgraft.cli import app; import injector.core.mutate;"
        "print(injector.__file__); app(['version'], result_action='return_value')"
    )
    run = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(str(installed / "meshgraft/_packages/injector"))
