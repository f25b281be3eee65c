"""The Dockerfile and scripts/image are two shells around one recipe, and stay so."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from deploy.images.oci import last_stage

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "deploy/images"
DOCKERFILE = (IMAGES / "Dockerfile").read_text()
SCRIPT = (ROOT / "scripts/image").read_text()


def allowed() -> list[str]:
    """What of the tree takes part in the build."""
    lines = (IMAGES / "Dockerfile.dockerignore").read_text().splitlines()
    return [line[1:] for line in lines if line.startswith("!")]


def test_both_do_their_work_in_build_root() -> None:
    # All that is run in the Dockerfile: what is installed to build with, then build-root.
    runs = re.findall(r"^RUN (.*)", DOCKERFILE, re.MULTILINE)
    assert [run.split()[0] for run in runs] == ["apt-get", "SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH}"]
    call = "/src/deploy/images/build-root /src /out"
    assert call in runs[1]
    assert call in SCRIPT


def test_both_build_with_the_same_packages_of_the_same_release() -> None:
    assert "</tmp/packages-build.txt" in DOCKERFILE
    assert "<deploy/images/packages-build.txt" in SCRIPT
    (release,) = re.findall(r"^ARG DEBIAN=(\w+)$", DOCKERFILE, re.MULTILINE)
    assert "FROM debian:${DEBIAN}-slim AS build" in DOCKERFILE
    assert release not in SCRIPT, "scripts/image reads the release from the Dockerfile"


def test_the_image_runs_as_nobody_special_and_starts_meshgraft() -> None:
    stage = last_stage(DOCKERFILE, {"VERSION": "1"})
    assert (stage.user, stage.entrypoint) == ("2103:2103", ["meshgraft"])
    assert stage.env["PATH"].split(":")[0] == "/opt/meshgraft/bin"
    prefix = "org.opencontainers.image."
    assert {"title", "description", "licenses", "version", "revision", "created"} <= {
        name.removeprefix(prefix) for name in stage.labels
    }
    assert stage.labels[f"{prefix}version"] == "1"


def test_the_context_has_all_that_the_build_reads() -> None:
    assert all((ROOT / name).exists() for name in allowed())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    read = {
        *wheel["packages"],
        *wheel.get("force-include", {}),
        "LICENSE",
        "README.md",
        "constraints.txt",
        "pyproject.toml",
    }
    assert {*read, "deploy/images", "scripts/build-cni"} == set(allowed())


@pytest.mark.parametrize("name", ["packages.txt", "packages-build.txt"])
def test_package_lists_are_sorted_and_without_doubles(name: str) -> None:
    lines = (IMAGES / name).read_text().splitlines()
    assert lines == sorted(set(lines))


@pytest.mark.parametrize("script", ["deploy/images/build-root", "scripts/image"])
def test_a_wrong_call_is_answered_with_the_usage(script: str) -> None:
    done = subprocess.run([ROOT / script, "--wrong"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: ")
