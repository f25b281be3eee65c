"""The bill of materials names what is installed, as scanners expect it."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.metadata import distribution

from deploy.images.sbom import debian_packages, document, linked_packages, python_packages

STATUS = """\
Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2:2.41-12+deb13u1
Description: GNU C Library
 It says Package: fake
 on a line of its own.

Package: zlib1g
Architecture: amd64
Version: 1

"""
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def test_debian_s_packages_have_purls_with_their_release() -> None:
    first, second = debian_packages(STATUS, "debian-13")
    assert (first["name"], first["versionInfo"]) == ("libc6", "2:2.41-12+deb13u1")
    assert first["externalRefs"][0]["referenceLocator"] == (
        "pkg:deb/debian/libc6@2%3A2.41-12%2Bdeb13u1?arch=amd64&distro=debian-13"
    )
    assert second["name"] == "zlib1g"


def test_python_s_distributions_are_sorted_by_their_normal_names() -> None:
    found = python_packages([distribution("PyYAML"), distribution("meshgraft")])
    assert [package["name"] for package in found] == ["meshgraft", "pyyaml"]


def test_what_is_linked_in_is_named_on_the_command_line() -> None:
    (package,) = linked_packages(["musl=1.2.5"])
    assert (package["name"], package["versionInfo"]) == ("musl", "1.2.5")


def test_the_document_relates_all_packages_to_ours() -> None:
    ours = list(python_packages([distribution("meshgraft")]))
    sbom = document([*ours, *debian_packages(STATUS, "debian-13")], NOON)
    assert sbom["creationInfo"]["created"] == "2026-01-02T12:00:00Z"
    identifiers = [package["SPDXID"] for package in sbom["packages"]]
    assert len(set(identifiers)) == len(identifiers)
    assert [r["relatedSpdxElement"] for r in sbom["relationships"]] == [
        "SPDXRef-python-meshgraft",
        "SPDXRef-deb-libc6",
        "SPDXRef-deb-zlib1g",
    ]


def test_the_same_packages_give_the_same_document() -> None:
    packages = [
        *python_packages([distribution("meshgraft")]),
        *debian_packages(STATUS, "debian-13"),
    ]
    assert document(packages, NOON) == document(packages, NOON)
    other = document(packages[:-1], NOON)
    assert other["documentNamespace"] != document(packages, NOON)["documentNamespace"]
