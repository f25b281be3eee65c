"""What lives as long as the process is left out of Python's cyclic garbage collections."""

from __future__ import annotations

import gc

YOUNG = 5000
"""So many more container objects than at the last collection start a young one; Python's 700 is
less than what a few reviews hold at once."""


def settle() -> None:
    """To be called once everything is imported and set up, before work is taken.

    A full collection walks all that was ever made: with the imports of a webhook 20 to 40 ms, in
    which no review is answered. What is there now is never looked at again (``gc.freeze``); what
    comes later still is, so that memory does not grow.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, 20, 20)
