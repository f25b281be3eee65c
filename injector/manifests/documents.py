"""A YAML or JSON text as its documents, cut apart and joined again to the letter."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Piece:
    """One document as text, with its separator and comments, and the line that it starts on."""

    text: str
    line: int


_CUT = re.compile(r"^---(?=[ \t\r\n]|\Z)|(?<=\n)^\.\.\.[ \t]*(?:#.*)?\r?\n", re.M)
_ONLY_DIRECTIVES = re.compile(r"(?:[ \t]*(?:#[^\n]*)?\r?\n|%[^\n]*\n)*%[^\n]*\n(?:[ \t]*\r?\n)*\Z")


def cut(text: str) -> list[Piece]:
    """A YAML or JSON text as documents; their texts together are the text again.

    Documents are separated by ``---``, as in YAML, or follow each other as JSON objects.
    """
    text = text.removeprefix("\ufeff")
    if text.lstrip().startswith("{") and (pieces := _cut_json(text)):
        return pieces
    places = [
        match.end() if match[0].startswith("...") else match.start()
        for match in _CUT.finditer(text)
    ]
    bounds = sorted({0, *places, len(text)})
    pieces, line, held = [], 1, ""
    for start, end in itertools.pairwise(bounds):
        part = held + text[start:end]
        held = part if _ONLY_DIRECTIVES.fullmatch(part) else ""
        if not held:
            pieces.append(Piece(part, line))
            line += part.count("\n")
    return [*pieces, Piece(held, line)] if held else pieces


def _cut_json(text: str) -> list[Piece]:
    """The objects of a stream of JSON; none where the text is anything else."""
    decoder, pieces, start, line = json.JSONDecoder(), [], 0, 1
    while start < len(text):
        body = len(text) - len(text[start:].lstrip())
        try:
            end = decoder.raw_decode(text, body)[1]
        except (ValueError, RecursionError):
            return []
        end += len(text[end:]) - len(text[end:].lstrip())
        pieces.append(Piece(text[start:end], line))
        line, start = line + text.count("\n", start, end), end
    return pieces


def join(parts: list[str]) -> str:
    """Documents' texts as one text, with a separator wherever one is missing."""
    joined: list[str] = []
    end = ""
    """The last characters of what was joined: all that the next separator hangs on."""
    is_blank = True

    def put(text: str) -> None:
        nonlocal end
        joined.append(text)
        end = (end + text[-_END:])[-_END:]

    for part in parts:
        if end and not end.endswith("\n"):
            put("\n")
        if not is_blank and not part.startswith("---"):
            # A directive is only allowed after the end of the document before.
            if not part.startswith("%"):
                put("---\n")
            elif not end.endswith("\n...\n"):
                put("...\n")
        put(part)
        is_blank = is_blank and not part.strip()
    if end and not end.endswith("\n"):
        put("\n")
    return "".join(joined)


_END = len("\n...\n")
