"""The events of a stream in the order of their numbers, each once.

A gateway that writes from several threads, or sends a piece again after a hiccup of its own, mixes them up. Numbers
are believed only as far as they make sense, for some gateways give every event the same one, or none.
"""

from collections import deque
from collections.abc import Mapping
from typing import Any, Final

Value = Mapping[str, Any]

WINDOW: Final = 8
"""How many events may overtake a missing one before it is given up, and of how many the last are remembered."""


class EventOrder:
    """Holds back what came too early; holds nothing while the numbers have no gap."""

    __slots__ = ("_early", "_next", "_recent")

    def __init__(self) -> None:
        self._next: int | None = None
        self._early: dict[int, Value] | None = {}  # None once the numbers are not believed
        self._recent: deque[int] = deque(maxlen=WINDOW)

    def take(self, value: Value, data: bytes) -> list[Value]:
        """The events whose turn it is now that this one came; `data` is the event as it was sent."""
        number = value.get("sequence_number")
        if not isinstance(number, int) or isinstance(number, bool):
            return [value]
        if number > 0:  # where all are zero, two equal pieces of a text are two
            mark = hash(data)
            if mark in self._recent:
                return []
            self._recent.append(mark)
        if self._early is None:
            return [value]
        if self._next is None or number == self._next:
            return [value, *self._following(number + 1)]
        if number < self._next or number in self._early:
            return [*self.flush(), value]
        self._early[number] = value
        return self.flush() if len(self._early) >= WINDOW else []

    def flush(self) -> list[Value]:
        """All that is held back; what is missing will not come."""
        early, self._early = self._early or {}, None
        return [early[number] for number in sorted(early)]

    def _following(self, number: int) -> list[Value]:
        found = []
        while self._early and number in self._early:
            found.append(self._early.pop(number))
            number += 1
        self._next = number
        return found
