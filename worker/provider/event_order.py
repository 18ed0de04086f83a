"""The events of a stream in the order of their numbers, each once.

A gateway that writes from several threads, or repeats a piece after an error of its own, mixes them up. Numbers are
trusted only as far as they are consistent: some gateways give every event the same number, or none.
"""

from collections import deque
from collections.abc import Mapping
from typing import Any, Final

Value = Mapping[str, Any]

WINDOW: Final = 8
"""Number of events that may overtake a missing one before it is given up, and of last events that are remembered."""


class EventOrder:
    """Holds back events that are early. While the numbers have no gap, it holds none."""

    __slots__ = ("_early", "_next", "_recent")

    def __init__(self) -> None:
        self._next: int | None = None
        self._early: dict[int, Value] | None = {}  # None once the numbers are not trusted
        self._recent: deque[int] = deque(maxlen=WINDOW)

    def take(self, value: Value, data: bytes) -> list[Value]:
        """Take an event; return those that are next in order. `data` is the event as it was received."""
        number = value.get("sequence_number")
        if not isinstance(number, int) or isinstance(number, bool):
            return [value]
        if number > 0:  # if all numbers are zero, two equal pieces of a text are no duplicates
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
        """Return all events that are held back: those that are missing will not come."""
        early, self._early = self._early or {}, None
        return [early[number] for number in sorted(early)]

    def _following(self, number: int) -> list[Value]:
        found = []
        while self._early and number in self._early:
            found.append(self._early.pop(number))
            number += 1
        self._next = number
        return found
