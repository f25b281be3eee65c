"""Whatever nobody brought into the image shows in its inventory."""

from __future__ import annotations

import io
import tarfile

import pytest

from deploy.images.inventory import inventory

SITE = "opt/v/lib/python3.13/site-packages"
FILES = {
    "var/lib/dpkg/info/libc6.list": "/.\n/usr\n/usr/lib/libc.so.6\n",
    "usr/lib/libc.so.6": "",
    f"{SITE}/Some_Pkg-1.dist-info/METADATA": "Metadata-Version: 2.4\nName: Some_Pkg\n\n",
    f"{SITE}/Some_Pkg-1.dist-info/RECORD": (
        "some/mod.py,sha256=x,1\nSome_Pkg-1.dist-info/RECORD,,\n"
        "Some_Pkg-1.dist-info/METADATA,,\n../../../bin/some,,\n"
    ),
    f"{SITE}/some/mod.py": "",
    f"{SITE}/some/__pycache__/mod.cpython-313.pyc": "",
    "opt/v/bin/some": "",
}
BROUGHT = ["debian libc6", "python some-pkg"]


def layer(extra: dict[str, int], link: str = "") -> tarfile.TarFile:
    """`FILES` and more, each with its mode."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in sorted({*FILES, *extra}):
            content = FILES.get(name, "").encode()
            entry = tarfile.TarInfo(name)
            entry.mode, entry.size = extra.get(name, 0o644), len(content)
            if link and name in extra:
                entry.type, entry.linkname = tarfile.SYMTYPE, link
            archive.addfile(entry, io.BytesIO(content))
    buffer.seek(0)
    return tarfile.open(fileobj=buffer)


def test_what_packages_brought_is_named_by_the_package() -> None:
    with layer({}) as opened:
        assert inventory(opened) == BROUGHT


@pytest.mark.parametrize(
    ("name", "mode", "line"),
    [
        ("etc/passwd", 0o644, "0644 0:0 /etc/passwd"),
        (f"{SITE}/stray.py", 0o644, f"0644 0:0 /{SITE}/stray.py"),
        (
            f"{SITE}/some/__pycache__/gone.cpython-313.pyc",
            0o644,
            f"0644 0:0 /{SITE}/some/__pycache__/gone.cpython-313.pyc",
        ),
        ("usr/lib/libc.so.6", 0o4755, "4755 0:0 /usr/lib/libc.so.6"),
    ],
    ids=["a file", "a module of no distribution", "byte code without source", "set-uid"],
)
def test_what_nobody_brought_or_is_set_uid_has_a_line(name: str, mode: int, line: str) -> None:
    with layer({name: mode}) as opened:
        assert inventory(opened) == [*BROUGHT, line]


def test_a_link_shows_its_target_without_the_architecture() -> None:
    with layer({"opt/l": 0o777}, link="/usr/lib/aarch64-linux-gnu/l.so.2") as opened:
        assert inventory(opened)[-1] == "0777 0:0 /opt/l -> /usr/lib/ARCH-linux-gnu/l.so.2"
