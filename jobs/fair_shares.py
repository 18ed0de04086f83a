"""Places that API keys share: no key can take them all, however many it wants and however long it holds them."""

from collections import Counter
from threading import Lock
from typing import Final

GREED: Final = 3
"""A key may hold up to so many times what stays free: three quarters of all places when it is alone, three sevenths
when two want all they can get. What stays free is for the keys that come next."""


def room(held: int, free: int) -> int:
    """How many more places a key that holds `held` may take while `free` are free.

    The last free place is left to a key that holds none.
    """
    most = -((held - GREED * free) // (GREED + 1))
    return max(0, min(most, free if held == 0 and free == 1 else free - 1))


class Shares:
    """So many places, and who holds them. Safe to use from any thread or greenlet."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._held: Counter[str] = Counter()
        self._taken = 0
        self._guard = Lock()

    @property
    def taken(self) -> int:
        """How many places are held, by all keys."""
        return self._taken

    def take(self, key: str) -> bool:
        """Take a place for `key`, if it may have one more."""
        with self._guard:
            if not room(self._held[key], self._places - self._taken):
                return False
            self._held[key] += 1
            self._taken += 1
            return True

    def give_back(self, key: str) -> None:
        """Give a place of `key` back."""
        with self._guard:
            self._taken -= 1
            self._held[key] -= 1
            if not self._held[key]:
                del self._held[key]

    def is_half_used(self, key: str) -> bool:
        """Whether a key holds as many places as it may still take, or more."""
        held = self._held.get(key, 0)
        return held >= room(held, self._places - self._taken)
