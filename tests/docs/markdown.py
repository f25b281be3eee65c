"""Reads Markdown pages as GitHub shows them: links, the anchors of headings, code."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
_PARSER = MarkdownIt("commonmark").enable("table")


def pages() -> list[Path]:
    """Every Markdown file of the repository; what is hidden or generated elsewhere is left out."""
    found = []
    for folder, folders, files in os.walk(ROOT):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "node_modules")))
        found += [Path(folder, name) for name in sorted(files) if name.endswith(".md")]
    return found


def name_of(page: Path) -> str:
    """The page's path in the repository, for test ids."""
    return str(page.relative_to(ROOT))


@cache
def _tokens(page: Path) -> list[Token]:
    return _PARSER.parse(page.read_text())


def _inline(page: Path) -> Iterator[Token]:
    for token in _tokens(page):
        yield from token.children or ()


def links(page: Path) -> list[str]:
    """The targets of all links and images of a page, as written."""
    attributes = {"link_open": "href", "image": "src"}
    return [
        str(token.attrs[attributes[token.type]])
        for token in _inline(page)
        if token.type in attributes
    ]


@cache
def anchors(page: Path) -> frozenset[str]:
    """What a link may name behind ``#``: GitHub's slugs of the headings, repeats numbered."""
    seen: dict[str, int] = {}
    slugs = set()
    tokens = _tokens(page)
    for opening, content in pairwise(tokens):
        if opening.type == "heading_open":
            slug = _slug(_text(content))
            repeat = seen.get(slug, 0)
            seen[slug] = repeat + 1
            slugs.add(f"{slug}-{repeat}" if repeat else slug)
    return frozenset(slugs)


def _text(heading: Token) -> str:
    kinds = ("text", "code_inline")
    return "".join(token.content for token in heading.children or () if token.type in kinds)


def _slug(text: str) -> str:
    return re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")


def code_spans(page: Path) -> list[str]:
    """Code within the running text."""
    return [token.content for token in _inline(page) if token.type == "code_inline"]


def blocks(page: Path, kind: str) -> list[str]:
    """The fenced blocks of one kind, such as ``yaml``."""
    return [
        token.content
        for token in _tokens(page)
        if token.type == "fence" and token.info.strip() == kind
    ]


@dataclass(frozen=True, slots=True)
class CommandLine:
    """A line behind ``$`` in a block of kind ``console``, its continuations joined."""

    page: Path
    line: int
    text: str

    def __str__(self) -> str:
        return f"{name_of(self.page)}:{self.line}: {self.text}"


def command_lines(page: Path) -> list[CommandLine]:
    """What a reader is told to type."""
    found = []
    for token in _tokens(page):
        if token.type != "fence" or token.info.strip() != "console":
            continue
        first = (token.map or [0])[0] + 2  # lines count from 1, and the fence itself is one
        lines = iter(enumerate(token.content.splitlines(), first))
        for number, line in lines:
            if not line.startswith("$ "):
                continue
            text = line[2:]
            while text.endswith("\\"):
                text = text[:-1] + next(lines)[1].strip()
            found.append(CommandLine(page, number, text))
    return found
