"""Text from a cluster, as it may be shown on a terminal: whoever wrote it does not control that."""

from __future__ import annotations

_KEPT = frozenset((0x09, 0x0A))
_CONTROL = (*range(0x20), *range(0x7F, 0xA0))
_DIRECTION = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
"""Characters that change the order in which the ones after them are shown."""
_SHOWN = {code: f"\\u{code:04x}" for code in (*_CONTROL, *_DIRECTION) if code not in _KEPT}


def shown(text: str) -> str:
    """The text with its control characters written out, as JSON does: ``\\u001b`` for ESC.

    An annotation or a container's message may hold sequences that move the cursor, rewrite what
    was printed, or make a terminal send input. Line ends and tabs stay.
    """
    return text.translate(_SHOWN)
