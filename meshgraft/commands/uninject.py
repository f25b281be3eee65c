"""``meshgraft uninject``: takes the proxy out of manifests again."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from injector.manifests.objects import uninject_rule
from injector.manifests.report import uninject_report
from meshgraft.commands._inputs import read_all
from meshgraft.commands._transform import Output, run


def uninject(
    *resources: Annotated[str, Parameter(allow_leading_hyphen=True)],
    output: Annotated[Output, Parameter(alias="-o")] = "yaml",
) -> int:
    """Take away from manifests everything that inject added.

    Parameters
    ----------
    resources
        Files, folders (every file below, but hidden ones), https:// URLs, or - for stdin.
    output
        The format of what is written to stdout.
    """
    return run(read_all(resources), uninject_rule, output, uninject_report, lambda _: [])
