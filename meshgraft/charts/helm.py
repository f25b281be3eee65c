"""Renders a chart with Helm itself: its library as a Python package, else the program ``helm``.

Both lay the values over each other as ``helm`` does: the layers in their order, then ``--set``,
``--set-string`` and ``--set-file``. The library is what the extra ``install`` brings; it knows no
cluster, and neither asks one.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from meshgraft._errors import CommandError
from meshgraft.charts.location import ChartName, chart_dir
from meshgraft.charts.manifests import Document, documents, in_order

Tree = dict[str, Any]
"""Values, as nested mappings."""

_TIMEOUT_SECONDS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One chart to be rendered. Of the layers, later ones win; assignments win over all layers."""

    chart: ChartName
    namespace: str
    layers: Sequence[Tree] = ()
    set: Sequence[str] = ()
    """``KEY=VALUE``, as ``helm --set`` takes it."""
    set_string: Sequence[str] = ()
    set_file: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Rendered:
    """The objects in the order in which they are to be made, and what NOTES.txt says of them."""

    objects: list[Document] = field(default_factory=list)
    notes: str = ""
    """Empty where the program ``helm`` rendered: it shows notes upon an installation only."""


def render(request: Request) -> Rendered:
    """The chart's objects.

    Raises:
        CommandError: a value that the chart does not know or cannot use (the text names it), a
            file that cannot be read, or neither Helm's library nor ``helm`` is here.
    """
    helm = _library()
    if helm is not None:
        return _by_library(helm, request)
    program = shutil.which("helm")
    if program is None:
        raise CommandError(
            "the charts are rendered by Helm, and neither its library nor the program helm is"
            " here: install the extra `install` (pip install -e '.[install]' in a clone), or helm"
            " (https://helm.sh)"
        )
    return _by_program(program, request)


# --- the library ---------------------------------------------------------------------------------


def _library() -> ModuleType | None:
    """Helm's library; None where it is not installed, or not for this platform."""
    try:
        import helm_python
    except ImportError:
        return None
    try:
        helm_python.helm_sdk_version()
    except helm_python.HelmLibraryError:
        return None
    module: ModuleType = helm_python
    return module


def _by_library(helm: ModuleType, request: Request) -> Rendered:
    try:
        values = _values(helm, request)
        with helm.Chart.load(chart_dir(request.chart)) as chart:
            files = chart.render(values, name=request.chart, namespace=request.namespace)
    except helm.HelmError as error:
        raise CommandError(explain(str(error))) from error
    notes = files.pop(f"{request.chart}/templates/NOTES.txt", "")
    texts = [_with_source(path, text) for path, text in sorted(files.items())]
    return Rendered(in_order(document for text in texts for document in documents(text)), notes)


def _with_source(path: str, text: str) -> str:
    return f"# Source: {path}\n{text.lstrip()}"


def _values(helm: ModuleType, request: Request) -> Tree:
    values: Tree = {}
    for layer in request.layers:
        values = merge(values, layer)
    parsers: tuple[tuple[str, Sequence[str], Callable[[str], Tree]], ...] = (
        ("--set", request.set, helm.parse_set_string),
        ("--set-string", request.set_string, helm.parse_set_string_values),
        ("--set-file", request.set_file, helm.parse_set_file),
    )
    for flag, assignments, parse in parsers:
        for assignment in assignments:
            try:
                values = merge(values, parse(assignment))
            except helm.HelmValuesError as error:
                raise CommandError(f"{flag} {assignment}: {error}") from error
    return values


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> Tree:
    """``above`` laid over ``below``: mappings by their keys, all else whole. null stays, because
    it takes the chart's own default away."""
    merged = dict(below)
    for key, value in above.items():
        standing = merged.get(key)
        if isinstance(standing, dict) and isinstance(value, dict):
            merged[key] = merge(standing, value)
        else:
            merged[key] = value
    return merged


# --- the program ---------------------------------------------------------------------------------


def _by_program(program: str, request: Request) -> Rendered:
    with tempfile.TemporaryDirectory(prefix="meshgraft-values-") as folder:
        arguments = [program, *_arguments(request, Path(folder))]
        try:
            done = subprocess.run(
                arguments, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise CommandError(f"{program} did not end within {_TIMEOUT_SECONDS} s") from error
    if done.returncode:
        raise CommandError(explain(done.stderr.strip() or f"{program}: exit {done.returncode}"))
    return Rendered(in_order(documents(done.stdout)))


def _arguments(request: Request, folder: Path) -> list[str]:
    arguments = ["template", request.chart, str(chart_dir(request.chart))]
    arguments += ["--namespace", request.namespace]
    for number, layer in enumerate(request.layers):
        path = folder / f"{number}.yaml"
        path.write_text(yaml.safe_dump(layer), encoding="utf-8")
        arguments += ["--values", str(path)]
    for flag, assignments in (
        ("--set", request.set),
        ("--set-string", request.set_string),
        ("--set-file", request.set_file),
    ):
        for assignment in assignments:
            arguments += [flag, assignment]
    return arguments


# --- what went wrong -----------------------------------------------------------------------------

_AT = re.compile(r"^ *- at '(?P<pointer>[^']*)': (?P<problem>.*)$", re.M)
_SUMMARY = re.compile(r"validation failed|'(anyOf|oneOf|allOf)' failed.*")
_FAILED = re.compile(r"execution error at \([^)]*\): (?P<problem>.*)$", re.S)


def explain(error: str) -> str:
    """Helm's error as a person wants it: the keys and what is wrong with each, or the chart's own
    sentence; else as it is."""
    problems = [
        f"{_path(match['pointer']) or 'the values'}: {match['problem']}"
        for match in _AT.finditer(error)
        if not _SUMMARY.fullmatch(match["problem"])
    ]
    if problems:
        return "; ".join(problems)
    failed = _FAILED.search(error)
    return (failed["problem"] if failed else error).strip()


def _path(pointer: str) -> str:
    """A JSON pointer as ``--set`` writes it."""
    parts = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]
    return "".join(f"[{part}]" if part.isdecimal() else f".{part}" for part in parts).lstrip(".")
