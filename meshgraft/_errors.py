"""Errors that end a command: a sentence for the person at the terminal, and the exit code."""

from __future__ import annotations


class CommandError(Exception):
    """A command cannot go on; the text says what happened and what to do."""

    exit_code = 1
