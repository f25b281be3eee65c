"""`LegacyHere`: legacy iptables in the process itself, for one that sets the rules of one pod.

The agent has a worker for that, since libxtables keeps state and ends the process when it despairs;
here that is just how an init container fails, and a second Python would double what it costs.
"""

from __future__ import annotations

from cni_plugin.dataplane.errors import LegacyError
from cni_plugin.dataplane.legacy_worker import Answer, Request, answer
from vocabulary.annotations.redirect import Redirect


class LegacyHere:
    """A `Backend` for the main thread of a short process."""

    @property
    def name(self) -> str:
        return "legacy"

    def apply(self, netns_fd: int, redirect: Redirect) -> bool:
        """Make the rules those of ``redirect``. True if anything had to be changed.

        Raises:
            DataplaneError: nothing was changed, unless the text says otherwise.
        """
        return _usable(answer(Request("apply", redirect), netns_fd)).changed

    def remove(self, netns_fd: int) -> bool:
        """Delete our chains and the jumps into them. False where there were none."""
        return _usable(answer(Request("remove"), netns_fd)).changed

    def difference(self, netns_fd: int, redirect: Redirect) -> str | None:
        """The first difference between the tables and what they should be, or None."""
        return _usable(answer(Request("difference", redirect), netns_fd)).text

    def unavailable(self) -> str | None:
        """None where everything needed is there, else what is missing."""
        found = answer(Request("probe"), None)
        return found.error or found.text

    def close(self) -> None:
        """Nothing is open."""


def _usable(found: Answer) -> Answer:
    if found.error is not None:
        raise LegacyError(found.error)
    return found
