"""The docs are true: pages made from the code are as the code is, and no link is dead."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from meshgraft.reference import ANNOTATIONS_PAGE, annotations_page

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/**/*.md")]
_LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(#[^)]*)?\)")


def test_the_annotations_page_is_as_the_table() -> None:
    assert (ROOT / ANNOTATIONS_PAGE).read_text() == annotations_page(), (
        "run: python -m meshgraft.reference"
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_link_within_the_repository_is_dead(page: Path) -> None:
    targets = [match[1] for match in _LINK.finditer(page.read_text())]
    dead = [t for t in targets if "://" not in t and not (page.parent / t).exists()]
    assert not dead


def test_the_commands_of_the_readme_are_there() -> None:
    commands = re.findall(r"^\$ (scripts/\w+)", (ROOT / "README.md").read_text(), re.M)
    assert set(commands) == {"scripts/demo", "scripts/test"}
    assert all((ROOT / command).stat().st_mode & 0o111 for command in commands)
