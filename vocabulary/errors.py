"""The root of all errors that are a sentence for whoever runs a command, and its exit code."""

from __future__ import annotations


class MeshgraftError(Exception):
    """Something known went wrong; the text says what, to what, and what to do about it.

    A command that meets one ends with this text and ``exit_code``; anything else that is raised
    is a defect, and ends with its traceback.
    """

    exit_code = 1
