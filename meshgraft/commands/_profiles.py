"""The profiles as a flag's choices: those that are registered when the command line is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from injector.profiles import PROFILES

if TYPE_CHECKING:
    ProfileName = str
else:
    ProfileName = Literal[tuple(sorted(PROFILES))]
