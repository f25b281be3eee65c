"""``meshgraft version``."""

from __future__ import annotations

from vocabulary.version import __version__


def version() -> None:
    """Print the version of meshgraft."""
    print(__version__)
