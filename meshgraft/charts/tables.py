"""The table of a chart's values, as Markdown, from the comments of its ``values.yaml``.

The comments are those of helm-docs: ``# --`` and the lines behind it describe the key below them,
with all that is inside it. ``# ---- Title ---`` begins a new table.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

BEGIN = "<!-- values: made from values.yaml by `python -m meshgraft.charts`; do not edit -->"
END = "<!-- /values -->"

_SECTION = re.compile(r"^# -{4} (?P<title>.+?) -*$")
_KEY = re.compile(r"^(?P<indent> *)(?P<key>[A-Za-z][\w.-]*):")


@dataclass(frozen=True, slots=True)
class Described:
    """One key with its description. ``path`` is what ``--set`` takes."""

    section: str
    path: tuple[str, ...]
    text: str


def described(values_yaml: str) -> Iterator[Described]:
    """The keys that have a description, in the order of the file."""
    section, comment = "", ""
    path: list[tuple[int, str]] = []
    for line in values_yaml.splitlines():
        stripped = line.strip()
        if title := _SECTION.match(line):
            section, comment = title["title"], ""
        elif stripped.startswith("# --"):
            comment = stripped.removeprefix("# --").strip()
        elif stripped.startswith("#"):
            comment += " " + stripped.removeprefix("#").strip() if comment else ""
        elif key := _KEY.match(line):
            indent = len(key["indent"])
            path = [step for step in path if step[0] < indent] + [(indent, key["key"])]
            if comment:
                yield Described(section, tuple(name for _, name in path), comment)
            comment = ""
        else:
            comment = ""


def undescribed(values_yaml: str) -> list[str]:
    """Settings that neither they nor what they are inside of has a description."""
    known = {one.path for one in described(values_yaml)}
    return [
        ".".join(path)
        for path in _leaves(yaml.safe_load(values_yaml))
        if not any(path[:depth] in known for depth in range(1, len(path) + 1))
    ]


def _leaves(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from _leaves(value, (*path, key))
    else:
        yield path


def table(values_yaml: str) -> str:
    """The tables, one for each section."""
    values = yaml.safe_load(values_yaml)
    lines: list[str] = []
    section = None
    for one in described(values_yaml):
        if one.section != section:
            section = one.section
            lines += ["", f"### {section}", "", "| key | default | meaning |", "|---|---|---|"]
        default = values
        for key in one.path:
            default = default[key]
        cells = (f"`{'.'.join(one.path)}`", f"`{_compact(default)}`", one.text)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _compact(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def with_table(readme: str, values_yaml: str) -> str:
    """The README with the tables between their two marks.

    Raises:
        ValueError: the marks are not there.
    """
    head, begin, rest = readme.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the README has no line {BEGIN!r} followed by {END!r}")
    return f"{head}{BEGIN}\n{table(values_yaml)}\n{END}{tail}"
