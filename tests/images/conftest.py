"""The image, made once by scripts/image, and why it cannot be made here where that is so."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

IMAGE = "docker.io/meshgraft/meshgraft:test"
_ROOT = Path(__file__).resolve().parents[2]


def missing_for_the_build() -> list[str]:
    """What scripts/image needs and the machine has not, each as a phrase."""
    missing = [] if os.geteuid() == 0 else ["root"]
    programs = ("mmdebstrap", "unshare", "flock")
    return missing + [name for name in programs if shutil.which(name) is None]


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image as an OCI archive, by the name `IMAGE`."""
    if missing := missing_for_the_build():
        pytest.skip(f"scripts/image needs {', '.join(missing)}")
    output = tmp_path_factory.mktemp("image") / "image.tar"
    done = subprocess.run(
        [_ROOT / "scripts/image", "-o", output, "--tag", IMAGE],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return output
