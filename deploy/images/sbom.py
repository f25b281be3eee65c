"""Writes the image's software bill of materials, as SPDX 2.3: ``sbom.py ROOT NAME=VERSION...``.

What it lists is what is there: Debian's packages by the dpkg database of the root, Python's by
their ``dist-info``, and what was named, which is linked into a program. Only the standard library,
as it runs while the image is built; the same contents and SOURCE_DATE_EPOCH give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from email.parser import Parser
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

PLACE = "usr/share/sbom/meshgraft.spdx.json"
"""Where the SBOM is in the image."""

Package = dict[str, Any]


def debian_packages(status: str, codename: str) -> Iterator[Package]:
    """The packages of a dpkg status file, with purls as scanners expect them."""
    for paragraph in filter(str.strip, status.split("\n\n")):
        fields = Parser().parsestr(paragraph.lstrip("\n"))
        name, version = fields["Package"], fields["Version"]
        query = f"arch={fields['Architecture']}&distro={codename}"
        purl = f"pkg:deb/debian/{name}@{_quoted(version)}?{query}"
        yield _package("deb", name, version, purl, "NOASSERTION")


def python_packages(found: list[Distribution]) -> Iterator[Package]:
    """Python's distributions, by their normalised names, in order."""
    for distribution in sorted(found, key=_name):
        name, version = _name(distribution), distribution.version
        licence = distribution.metadata.get("License-Expression") or "NOASSERTION"
        yield _package("python", name, version, f"pkg:pypi/{name}@{_quoted(version)}", licence)


def linked_packages(named: list[str]) -> Iterator[Package]:
    """What is linked into a program of the image, as ``NAME=VERSION``."""
    for name, _, version in (item.partition("=") for item in named):
        yield _package("linked", name, version, f"pkg:generic/{name}@{version}", "NOASSERTION")


def document(packages: list[Package], created: datetime) -> dict[str, Any]:
    """The SPDX document: the image's root, which holds all packages."""
    text = json.dumps(packages, sort_keys=True).encode()
    described = next(package for package in packages if package["name"] == "meshgraft")
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": f"meshgraft-{described['versionInfo']}",
        "documentNamespace": f"urn:meshgraft:sbom:{hashlib.sha256(text).hexdigest()}",
        "creationInfo": {
            "created": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "creators": ["Tool: deploy/images/sbom.py"],
        },
        "packages": packages,
        "relationships": [
            _relationship("SPDXRef-DOCUMENT", "DESCRIBES", described["SPDXID"]),
            *(
                _relationship(described["SPDXID"], "DEPENDS_ON", package["SPDXID"])
                for package in packages
                if package is not described
            ),
        ],
    }


def _package(kind: str, name: str, version: str, purl: str, licence: str) -> Package:
    return {
        "SPDXID": "SPDXRef-" + re.sub(r"[^A-Za-z0-9.-]", "-", f"{kind}-{name}"),
        "name": name,
        "versionInfo": version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": licence,
        "copyrightText": "NOASSERTION",
        "externalRefs": [
            {
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": purl,
            }
        ],
    }


def _relationship(one: str, kind: str, other: str) -> dict[str, str]:
    return {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}


def _name(distribution: Distribution) -> str:
    return re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()


def _quoted(version: str) -> str:
    return version.replace("%", "%25").replace("+", "%2B").replace(":", "%3A")


def _codename(os_release: str) -> str:
    fields = dict(line.split("=", 1) for line in os_release.splitlines() if "=" in line)
    return "debian-" + fields["VERSION_ID"].strip('"')


def main(root: Path, linked: list[str]) -> None:
    """Write the SBOM into ``root``."""
    site = next((root / "opt/meshgraft/lib").glob("python3*/site-packages"))
    codename = _codename((root / "usr/lib/os-release").read_text())
    packages = [
        *python_packages(list(distributions(path=[str(site)]))),
        *debian_packages((root / "var/lib/dpkg/status").read_text(), codename),
        *linked_packages(linked),
    ]
    created = datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), UTC)
    target = root / PLACE
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(document(packages, created), indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
