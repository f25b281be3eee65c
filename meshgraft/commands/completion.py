"""``meshgraft completion``: the script that completes commands and flags in a shell."""

from __future__ import annotations

import sys
from typing import Literal

from cyclopts import App

from meshgraft import cli

Shell = Literal["bash", "zsh", "fish"]


def completion(shell: Shell, /) -> None:
    """Print the completion script of a shell.

    bash: source <(meshgraft completion bash); zsh: meshgraft completion zsh into a file _meshgraft
    of a folder in fpath; fish: meshgraft completion fish | source.

    Parameters
    ----------
    shell
        Which shell.
    """
    sys.stdout.write(_loadable().generate_completion(shell=shell, prog_name="meshgraft"))


def _loadable() -> App:
    """The command line, where a command whose extra is not installed (the node half, the demo)
    completes by its name only."""
    app = App(name="meshgraft", help=cli.app.help, version_flags=cli.app.version_flags)
    for name in cli.app:
        if name.startswith("-"):
            continue
        try:
            app.command(cli.app[name], name=name)
        except ImportError:
            app.command(_missing, name=name)
    return app


def _missing() -> None:
    """Not installed here."""
