"""What the docs tell a reader to type is what the command line takes: flags cannot go stale."""

from __future__ import annotations

import shlex

import pytest
from cyclopts import CycloptsError
from cyclopts.exceptions import MissingArgumentError

from meshgraft.cli import app
from meshgraft.reference import COMMANDS_PAGE
from tests.docs.markdown import ROOT, CommandLine, code_spans, command_lines, name_of, pages

_PAGES = [page for page in pages() if page != ROOT / COMMANDS_PAGE]
_TYPED = [line for page in _PAGES for line in command_lines(page)]
_SPANS = sorted(
    {
        (name_of(page), span)
        for page in _PAGES
        for span in code_spans(page)
        if span.startswith("meshgraft ") and not span.split()[1].isupper()
    }
)


def _programs(text: str) -> list[list[str]]:
    """The words of each program of a shell line; redirections and comments are left out."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    programs: list[list[str]] = [[]]
    words = iter(lexer)
    for word in words:
        if word in ("|", "||", "&&", ";"):
            programs.append([])
        elif word in (">", ">>", "<"):
            next(words)
        else:
            programs[-1].append(word)
    return [program for program in programs if program]


def _complaint(words: list[str], *, whole: bool = True) -> str | None:
    """What the command line says against these arguments of ``meshgraft``; None for nothing."""
    try:
        _, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    except MissingArgumentError as error:
        return str(error) if whole else None
    except CycloptsError as error:
        return str(error)
    # Commands that take "-" for stdin tell such a word from a flag only when they run.
    flags = [word for word in map(str, bound.args) if word.startswith("-") and word != "-"]
    return f"unknown option: {flags[0]}" if flags else None


@pytest.mark.parametrize("line", _TYPED, ids=str)
def test_each_command_line_of_the_docs_is_taken(line: CommandLine) -> None:
    for program, *arguments in _programs(line.text):
        if program == "meshgraft":
            assert _complaint(arguments) is None
        if program.startswith("scripts/"):
            assert (ROOT / program).stat().st_mode & 0o111, f"{program} cannot be run"


@pytest.mark.parametrize(("page", "span"), _SPANS)
def test_each_command_named_in_the_text_is_there(page: str, span: str) -> None:
    assert _complaint(_programs(span)[0][1:], whole=False) is None, page


@pytest.mark.parametrize(
    "text",
    [
        "inject --no-such-flag web.yaml",
        "no-such-command",
        "webhook --profile no-such-profile",
        "uninject --manual web.yaml",
    ],
)
def test_a_stale_command_line_is_found(text: str) -> None:
    assert _complaint(text.split()) is not None


@pytest.mark.parametrize(
    ("text", "programs"),
    [
        ("meshgraft inject a.yaml | kubectl apply -f -  # and so on", 2),
        ("meshgraft inject --config=access-log=json a.yaml > b.yaml", 1),
        ("kubectl get pods -o 'jsonpath={.items[*]|x}'", 1),
    ],
)
def test_a_shell_line_is_taken_apart(text: str, programs: int) -> None:
    found = _programs(text)
    assert len(found) == programs
    assert "b.yaml" not in found[0]


def test_the_docs_tell_something_to_type() -> None:
    programs = [program for line in _TYPED for program in _programs(line.text)]
    assert sum(program[0] == "meshgraft" for program in programs) > 30
