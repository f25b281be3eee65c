"""What only a command can be told: that its flags, files or surroundings do not do."""

from __future__ import annotations

from vocabulary.errors import MeshgraftError


class CommandError(MeshgraftError):
    """A command cannot go on; the text says what happened and what to do."""

    exit_code = 1
