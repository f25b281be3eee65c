"""What the docs give a reader to copy is YAML, and Kubernetes would take it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.docs.markdown import ROOT, blocks, name_of, pages

_OLDEST = "1.29"
"""The oldest Kubernetes that the charts take."""
_PAGES = [page for page in pages() if blocks(page, "yaml")]


@pytest.mark.parametrize("page", _PAGES, ids=name_of)
def test_each_block_of_yaml_is_yaml(page: Path) -> None:
    for block in blocks(page, "yaml"):
        assert all(isinstance(document, dict) for document in yaml.safe_load_all(block))


def _tutorial() -> list[dict[str, Any]]:
    page = ROOT / "docs/tutorial/first-meshed-pod.md"
    return [each for block in blocks(page, "yaml") for each in yaml.safe_load_all(block)]


def test_the_manifests_of_the_tutorial_are_valid() -> None:
    manifests = _tutorial()
    assert [each["kind"] for each in manifests] == ["Deployment", "Service", "Deployment"]
    for each in manifests:
        kubernetes_validate.validate(each, _OLDEST, strict=True)
