"""The image's settings come from the Dockerfile, and the same files give the same bytes."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest

from deploy.images.inventory import open_layer
from deploy.images.oci import ImageError, Stage, full_name, last_stage, write_archive, write_layer

DOCKERFILE = """\
FROM debian AS build
ENV A=of-the-build-stage
USER root
RUN anything

# A comment.
FROM scratch
ARG VERSION=unknown
LABEL one="two words" \\
      # a comment in between
      version="${VERSION}"
COPY --from=build /out/ /
ENV A=1 B="x y"
USER 7:8
WORKDIR /w
ENTRYPOINT ["a", "b c"]
"""


def test_the_last_stage_alone_counts() -> None:
    assert last_stage(DOCKERFILE, {"VERSION": "1.2"}) == Stage(
        env={"A": "1", "B": "x y"},
        labels={"one": "two words", "version": "1.2"},
        user="7:8",
        workdir="/w",
        entrypoint=["a", "b c"],
    )


def test_an_argument_that_is_not_given_has_its_default() -> None:
    assert last_stage(DOCKERFILE, {}).labels["version"] == "unknown"


@pytest.mark.parametrize(
    ("dockerfile", "complaint"),
    [
        ("FROM scratch\nVOLUME /v\n", "VOLUME, which is not known"),
        ("FROM scratch\nRUN true\n", "RUN, which is not known"),
        ("FROM scratch AS a\nFROM debian\n", "FROM debian, expected FROM scratch"),
        ("", "expected FROM scratch"),
    ],
)
def test_what_is_not_understood_is_refused(dockerfile: str, complaint: str) -> None:
    with pytest.raises(ImageError, match=complaint):
        last_stage(dockerfile, {})


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("meshgraft/meshgraft:0.1.0", "docker.io/meshgraft/meshgraft:0.1.0"),
        ("meshgraft", "docker.io/library/meshgraft:latest"),
        ("registry.example/a/b:1", "registry.example/a/b:1"),
        ("localhost:5000/a", "localhost:5000/a:latest"),
        ("localhost/a:1", "localhost/a:1"),
    ],
)
def test_a_name_is_completed_as_runtimes_complete_it(name: str, full: str) -> None:
    assert full_name(name) == full


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "d").mkdir(parents=True)
    (root / "d/program").write_text("#!")
    (root / "d/program").chmod(0o755)
    (root / "link").symlink_to("d/program")
    os.utime(root / "d/program", (5, 5))
    return root


def test_a_layer_has_rights_links_and_no_time_after_the_given_one(
    root: Path, tmp_path: Path
) -> None:
    write_layer(root, tmp_path / "layer", 10)
    with tarfile.open(tmp_path / "layer") as layer:
        members = layer.getmembers()
    assert [(m.name, m.mode & 0o777, m.linkname, m.mtime) for m in members if not m.isdir()] == [
        ("d/program", 0o755, "", 5),
        ("link", 0o777, "d/program", 10),
    ]


def test_the_same_files_give_the_same_archive_at_any_time(root: Path, tmp_path: Path) -> None:
    contents = []
    for number in (1, 2):
        os.utime(root / "d", (1000 * number, 1000 * number))
        layer, output = tmp_path / f"layer-{number}", tmp_path / f"image-{number}"
        write_layer(root, layer, 10)
        write_archive(layer, Stage(), "a/b:1", "1970-01-01T00:00:10Z", output)
        contents.append(output.read_bytes())
    assert contents[0] == contents[1]
    with open_layer(tmp_path / "image-1") as found:
        assert found.getnames() == ["d", "d/program", "link"]
