"""Where the charts are: inside an installed wheel, or in ``deploy/charts`` of a clone."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from meshgraft._errors import CommandError

ChartName = Literal["meshgraft", "meshgraft-cni"]
CHARTS: tuple[ChartName, ...] = ("meshgraft", "meshgraft-cni")

_PACKAGE = Path(__file__).resolve().parents[1]
IN_WHEEL = _PACKAGE / "_charts"
"""Where the wheel has them (``force-include`` in pyproject.toml)."""
IN_CLONE = _PACKAGE.parent / "deploy" / "charts"


def chart_dir(name: ChartName) -> Path:
    """The chart's folder.

    Raises:
        CommandError: the installation is not whole.
    """
    for folder in (IN_CLONE / name, IN_WHEEL / name):
        if (folder / "Chart.yaml").is_file():
            return folder
    raise CommandError(
        f"the chart {name} is not where this command was installed ({IN_WHEEL}): install meshgraft"
        " again, or render deploy/charts of its repository with helm"
    )
