"""A cache of texts that is bounded by what it holds, not by how many: pods may make them long."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Kept(Generic[K]):
    """Texts by key, the least recently used of which go first. For one thread."""

    def __init__(self, most_characters: int) -> None:
        """Keep texts of ``most_characters`` in all; one that alone is longer than an eighth of that
        is not kept, so that a few pods cannot push out what all others share."""
        self._most = most_characters
        self._texts: OrderedDict[K, str] = OrderedDict()
        self.characters = 0

    def get(self, key: K, make: Callable[[], str]) -> str:
        """The text that is kept for the key, or the one that ``make`` returns."""
        text = self._texts.get(key)
        if text is not None:
            self._texts.move_to_end(key)
            return text
        text = make()
        if len(text) <= self._most // 8:
            self._texts[key] = text
            self.characters += len(text)
            while self.characters > self._most:
                _, oldest = self._texts.popitem(last=False)
                self.characters -= len(oldest)
        return text
