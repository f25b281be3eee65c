"""Writes what is beside the charts and made from the code: ``python -m meshgraft.charts``."""

from __future__ import annotations

import json
from pathlib import Path

from meshgraft.charts.location import CHARTS, IN_CLONE
from meshgraft.charts.schema import values_schema
from meshgraft.charts.tables import with_table


def generated() -> dict[Path, str]:
    """Each file that is made, and its content, in a clone of the repository."""
    files: dict[Path, str] = {}
    for chart in CHARTS:
        folder = IN_CLONE / chart
        schema = json.dumps(values_schema(chart), indent=2)
        files[folder / "values.schema.json"] = schema + "\n"
        readme = folder / "README.md"
        files[readme] = with_table(readme.read_text(), (folder / "values.yaml").read_text())
    return files


def main() -> None:
    """Write the files."""
    for path, content in generated().items():
        path.write_text(content)


if __name__ == "__main__":
    main()
