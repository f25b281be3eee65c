"""The course that inject and uninject share: read, cut, apply a rule, write, report."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from injector.manifests.documents import Piece, cut, join
from injector.manifests.objects import Problem, Report, Result, Rule, transform
from injector.manifests.roundtrip import YamlError, dump, load
from meshgraft._terminal import shown
from meshgraft.commands._inputs import Source

Output = Literal["yaml", "json"]


@dataclass(slots=True)
class _Done:
    """What came of all documents so far."""

    texts: list[str] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def run(
    sources: Sequence[Source],
    rule: Rule,
    output: Output,
    report: Callable[[list[Report]], str],
    warnings: Callable[[list[Report]], list[str]],
) -> int:
    """Apply a rule to all documents and write the result; returns the exit code.

    The documents go to stdout, then the report to stderr. Where one document cannot be used,
    nothing is written to stdout: half of the manifests, applied, would be worse than none.
    """
    done = _Done()
    for source in sources:
        _take(source, rule, output, done)
    if done.problems:
        for line in warnings(done.reports):
            print(shown(line), file=sys.stderr)
        problems = map(shown, done.problems)
        print("Error transforming resources:", *problems, sep="\n", file=sys.stderr)
        return 1
    try:
        _write("".join(done.texts) if output == "json" else join(done.texts))
    except BrokenPipeError:
        # Whoever read has seen enough; the interpreter must not trip over it again at its end.
        sys.stdout = None
        return 1
    sys.stderr.write(shown(report(done.reports)))
    return 0


def _write(text: str) -> None:
    """Write all of a text to stdout, in UTF-8 whatever the locale.

    With PYTHONUNBUFFERED, as in many containers, Python itself writes once and forgets the rest.
    """
    rest = memoryview(text.encode())
    while rest:
        rest = rest[sys.stdout.buffer.write(rest) :]
    sys.stdout.buffer.flush()


def _take(source: Source, rule: Rule, output: Output, done: _Done) -> None:
    number = 0
    for piece in cut(source.text):
        try:
            document = load(piece)
        except YamlError as error:
            number += 1
            done.problems.append(f"{source.name}: document {number}: {error}")
            continue
        number += document is not None
        place = f"{source.name}, document {number}"
        result = transform(document, rule)
        done.reports += result.reports
        done.problems += [_told(problem, place) for problem in result.problems]
        if output == "yaml" or document is not None:
            done.texts.append(_written(document, result, piece, output))


def _told(problem: Problem, place: str) -> str:
    where = ", ".join(filter(None, (place, problem.field)))
    return f"{problem.message} ({where})"


def _written(document: object, result: Result, piece: Piece, output: Output) -> str:
    if output == "json":
        return json.dumps(result.document, indent=2, ensure_ascii=False) + "\n"
    return piece.text if result.document is document else dump(result.document, piece)
