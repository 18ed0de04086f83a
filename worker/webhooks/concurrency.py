"""Limits on concurrent deliveries to one delivery target, and the deliveries that wait for it."""

from collections import Counter
from collections.abc import Iterable
from typing import Final

from jobs.store.webhooks.scheduler import FIRST_AT_ONCE, MOST_PER_TARGET
from jobs.webhooks.protocol import DeliveryError

REMEMBERED: Final = 10_000
WAITING_PER_TARGET: Final = 4 * MOST_PER_TARGET
ABANDONED: Final = frozenset({DeliveryError.TIMED_OUT, DeliveryError.UNREACHABLE, DeliveryError.NAME_UNRESOLVED})


class TargetLimits:
    """Number of deliveries that may run at once to each target, learned by this process.

    A target begins with few and gets one more with each delivery that it accepts. One that does not answer is left with
    one. So targets that hang cannot take all slots before that is known.
    """

    def __init__(self) -> None:
        self._running: Counter[str] = Counter()
        self._limits: dict[str, int] = {}

    def take(self, target: str) -> bool:
        """Take a slot of a target. Return False if it has none free."""
        if self._running[target] >= self._limits.get(target, FIRST_AT_ONCE):
            return False
        self._running[target] += 1
        return True

    def give_back(self, target: str) -> bool:
        """Return a slot of a target. True if no delivery to it is left."""
        self._running[target] -= 1
        if self._running[target]:
            return False
        del self._running[target]
        return True

    def learn(self, target: str, error: DeliveryError | None) -> None:
        """Learn from the result of a delivery. None means that it succeeded."""
        limit = self._limits.get(target, FIRST_AT_ONCE)
        if error is None:
            self._limits[target] = min(limit + 1, MOST_PER_TARGET)
        elif error in ABANDONED:
            self._limits[target] = 1
        while len(self._limits) > REMEMBERED:
            del self._limits[next(iter(self._limits))]


class Backlog:
    """Due deliveries to targets that have no slot free. The next delivery to finish there takes them.

    This only saves queries: a delivery that is not kept here is found by the next query or enqueued again.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, dict[str, None]] = {}

    def add(self, target: str, delivery_ids: Iterable[str]) -> None:
        """Keep deliveries, up to a bound, while a delivery to this target runs."""
        waiting = self._waiting.setdefault(target, {})
        for each in delivery_ids:
            if len(waiting) >= WAITING_PER_TARGET:
                return
            waiting[each] = None

    def take(self, target: str) -> str | None:
        """Remove and return the first of them. None if there are none."""
        waiting = self._waiting.get(target)
        if not waiting:
            return None
        first = next(iter(waiting))
        del waiting[first]
        return first

    def forget(self, target: str) -> None:
        """Forget a target to which no delivery runs."""
        self._waiting.pop(target, None)
