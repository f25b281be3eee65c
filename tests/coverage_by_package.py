"""Prints how much of each package the tests reached: lines and branches together, in percent."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path

import coverage

_COUNTED = ("num_statements", "covered_lines", "num_branches", "covered_branches")


def by_package(files: dict[str, dict[str, dict[str, int]]]) -> dict[str, Counter[str]]:
    """Sums of what coverage counted, by the two upper folders of each file."""
    found: dict[str, Counter[str]] = {}
    for path, counted in files.items():
        package = ".".join(Path(path).parent.parts[:2])
        sums = found.setdefault(package, Counter())
        sums.update({name: counted["summary"][name] for name in _COUNTED})
    return found


def percent(sums: Counter[str]) -> float:
    """Of lines and branches together, as coverage's own total has it."""
    whole = sums["num_statements"] + sums["num_branches"]
    return 100 * (sums["covered_lines"] + sums["covered_branches"]) / whole if whole else 100.0


def main() -> None:
    """Print the table for the data that the last run left."""
    measured = coverage.Coverage()
    measured.load()
    with tempfile.NamedTemporaryFile("r", suffix=".json") as file:
        measured.json_report(outfile=file.name)
        files = json.loads(Path(file.name).read_text())["files"]
    print(f"{'package':<24}{'lines':>8}{'branches':>10}{'reached':>9}")
    table = by_package(files)
    for package, sums in [*sorted(table.items()), ("all", sum(table.values(), Counter()))]:
        lines, branches = sums["num_statements"], sums["num_branches"]
        print(f"{package:<24}{lines:>8}{branches:>10}{percent(sums):>8.1f}%")


if __name__ == "__main__":
    main()
