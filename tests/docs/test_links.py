"""No page of the repository sends its reader nowhere."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.docs.markdown import ROOT, anchors, links, name_of, pages


def _problem(page: Path, target: str) -> str | None:
    """Why a relative link leads nowhere; None where it does not, or leads out of the repository."""
    if "://" in target or target.startswith("mailto:"):
        return None
    path, _, anchor = unquote(target).partition("#")
    aim = (page.parent / path).resolve() if path else page
    if not aim.exists():
        return f"{target}: no such file"
    if not aim.is_relative_to(ROOT):
        return f"{target}: outside of the repository"
    if anchor and (aim.suffix != ".md" or anchor not in anchors(aim)):
        return f"{target}: no such heading in {name_of(aim)}"
    return None


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_no_link_within_the_repository_is_dead(page: Path) -> None:
    problems = [problem for target in links(page) if (problem := _problem(page, target))]
    assert not problems


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("page.md", None),
        ("page.md#a-heading-of-code-x-twice", None),
        ("page.md#a-heading-of-code-x-twice-1", None),
        ("page.md#none", "no such heading"),
        ("gone.md", "no such file"),
        ("#a-heading-of-code-x-twice", None),
        ("https://example.org/page#anything", None),
    ],
)
def test_a_dead_link_is_found(
    target: str, why: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A heading: of code `x`, twice\n\n# A heading: of code `x`, twice\n")
    monkeypatch.setattr("tests.docs.test_links.ROOT", tmp_path)
    monkeypatch.setattr("tests.docs.markdown.ROOT", tmp_path)
    problem = _problem(page, target)
    assert why in problem if why and problem else problem is why


def test_every_page_of_the_docs_is_in_their_index() -> None:
    index = ROOT / "docs/README.md"
    listed = {(index.parent / target.partition("#")[0]).resolve() for target in links(index)}
    docs = {page for page in pages() if page.is_relative_to(ROOT / "docs")}
    decisions = {page for page in docs if page.parent.name == "decisions" and page.stem != "README"}
    assert docs - decisions - {index} - listed == set()
