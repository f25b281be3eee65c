"""``meshgraft version``."""

from __future__ import annotations

from injector._version import __version__


def version() -> None:
    """Print the version of meshgraft."""
    print(__version__)
