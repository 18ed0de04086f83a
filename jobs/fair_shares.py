"""Places shared by API keys. No key can take them all, however many it wants and however long it holds them."""

from collections import Counter
from threading import Lock
from typing import Final

GREED: Final = 3
"""Limit of a key's places, as a multiple of the free ones: three quarters of all places if it is alone, three sevenths
each if two keys want as many as possible. The free places are for the keys that come next."""


def room(held: int, free: int) -> int:
    """Return the number of further places for a key that holds `held` while `free` are free.

    The last free place is for a key that holds none.
    """
    most = -((held - GREED * free) // (GREED + 1))
    return max(0, min(most, free if held == 0 and free == 1 else free - 1))


class Shares:
    """A number of places and their holders. Safe to use from any thread or greenlet."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._held: Counter[str] = Counter()
        self._taken = 0
        self._guard = Lock()

    @property
    def taken(self) -> int:
        """Number of places held by all keys."""
        return self._taken

    def take(self, key: str) -> bool:
        """Take a place for `key`; return False if it may not have one more."""
        with self._guard:
            if not room(self._held[key], self._places - self._taken):
                return False
            self._held[key] += 1
            self._taken += 1
            return True

    def give_back(self, key: str) -> None:
        """Return a place of `key`."""
        with self._guard:
            self._taken -= 1
            self._held[key] -= 1
            if not self._held[key]:
                del self._held[key]

    def is_half_used(self, key: str) -> bool:
        """Return whether a key holds at least as many places as it may still take."""
        held = self._held.get(key, 0)
        return held >= room(held, self._places - self._taken)
