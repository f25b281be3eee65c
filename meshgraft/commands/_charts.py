"""What `install` and `install-cni` share: Helm's flags for values, and the manifests on stdout."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from meshgraft.charts.helm import Rendered, Request, Tree, render
from meshgraft.charts.linkerd_values import understood
from meshgraft.charts.location import ChartName
from meshgraft.charts.manifests import stream
from meshgraft.charts.values_files import read_values

_Repeated = Parameter(negative="", consume_multiple=False, show_default=False)


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class ValueFlags:
    """Values of the chart, as with ``helm``."""

    values: Annotated[list[Path], _Repeated, Parameter(alias="-f")] = field(default_factory=list)
    """A file of values (YAML), Linkerd's own too; may be repeated, and later ones win. Flags win
    over files."""
    set: Annotated[list[str], _Repeated] = field(default_factory=list)
    """A value, KEY=VALUE, such as proxy.logLevel=debug; may be repeated. Wins over all else."""
    set_string: Annotated[list[str], _Repeated] = field(default_factory=list)
    """The same, for a text that looks like a number or a boolean."""
    set_file: Annotated[list[str], _Repeated] = field(default_factory=list)
    """The same, KEY=FILE, for a text that is in a file."""


def layers(chart: ChartName, preset: Tree, flags: ValueFlags, given: Tree) -> list[Tree]:
    """What to lay over the chart's defaults: the preset, the files, then what flags said. What
    Linkerd's charts know and ours do not is left out of the files, with one warning for each.

    Raises:
        CommandError: a file cannot be read, or is not YAML.
    """
    files = []
    for path in flags.values:
        found = understood(chart, read_values(path))
        if found.unused:
            names = ", ".join(found.unused)
            print(
                f"Warning: {path}: values of Linkerd's charts that have no counterpart here, not "
                f"used: {names}",
                file=sys.stderr,
            )
        files.append(found.tree)
    return [preset, *files, given]


def print_manifests(
    chart: ChartName, namespace: str, values: Sequence[Tree], flags: ValueFlags
) -> None:
    """Render and print; nothing is printed if anything is wrong.

    Raises:
        CommandError: as `render`.
    """
    asked = Request(
        chart=chart,
        namespace=namespace,
        layers=values,
        set=flags.set,
        set_string=flags.set_string,
        set_file=flags.set_file,
    )
    rendered = render(asked)
    sys.stdout.write(stream(rendered.objects))
    for warning in warnings(rendered):
        print(f"‼ {warning}", file=sys.stderr)


def warnings(rendered: Rendered) -> list[str]:
    """The paragraphs of NOTES.txt that are warnings, one line each."""
    found = re.findall(r"^WARNING: (.*?)(?:\n\s*\n|\Z)", rendered.notes, re.M | re.S)
    return [" ".join(text.split()) for text in found]
