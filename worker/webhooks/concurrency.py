"""Whose turn it is among the deliveries that this process could send: places per receiver, and who waits for one."""

from collections import Counter
from collections.abc import Iterable
from typing import Final

from jobs.store.webhooks.scheduler import FIRST_AT_ONCE, MOST_PER_TARGET
from jobs.webhooks.protocol import DeliveryError

REMEMBERED: Final = 10_000
WAITING_PER_TARGET: Final = 4 * MOST_PER_TARGET
ABANDONED: Final = frozenset({DeliveryError.TIMED_OUT, DeliveryError.UNREACHABLE, DeliveryError.NAME_UNRESOLVED})


class Widths:
    """How many deliveries may be out to each receiver at once, as this process has come to know it.

    A receiver begins with few and earns one more by each that it takes; one that does not answer is left with one. So
    many that hang cannot take all slots before anybody knows that they hang.
    """

    def __init__(self) -> None:
        self._out: Counter[str] = Counter()
        self._width: dict[str, int] = {}

    def take(self, receiver: str) -> bool:
        """Take one of a receiver's places, if there is one."""
        if self._out[receiver] >= self._width.get(receiver, FIRST_AT_ONCE):
            return False
        self._out[receiver] += 1
        return True

    def give_back(self, receiver: str) -> bool:
        """Give a place back; whether it was the last that was taken."""
        self._out[receiver] -= 1
        if self._out[receiver]:
            return False
        del self._out[receiver]
        return True

    def learn(self, receiver: str, error: DeliveryError | None) -> None:
        """How a delivery went; None for well."""
        width = self._width.get(receiver, FIRST_AT_ONCE)
        if error is None:
            self._width[receiver] = min(width + 1, MOST_PER_TARGET)
        elif error in ABANDONED:
            self._width[receiver] = 1
        while len(self._width) > REMEMBERED:
            del self._width[next(iter(self._width))]


class Backlog:
    """Deliveries known to be due to receivers that have no place free; whoever delivers there takes them next.

    It only spares looking for them: what is not kept here is found by the next look, or rung for again.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, dict[str, None]] = {}

    def add(self, receiver: str, delivery_ids: Iterable[str]) -> None:
        """Keep some, up to a bound, while somebody delivers to this receiver."""
        waiting = self._waiting.setdefault(receiver, {})
        for each in delivery_ids:
            if len(waiting) >= WAITING_PER_TARGET:
                return
            waiting[each] = None

    def take(self, receiver: str) -> str | None:
        """The first of them; None when there is none."""
        waiting = self._waiting.get(receiver)
        if not waiting:
            return None
        first = next(iter(waiting))
        del waiting[first]
        return first

    def forget(self, receiver: str) -> None:
        """Nobody delivers there any more."""
        self._waiting.pop(receiver, None)
