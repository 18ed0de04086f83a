"""Exponential backoff, and the schedules that use it."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

_MOST_DOUBLINGS: Final = 30
"""Far beyond any cap, and far below what a timedelta cannot hold."""


@dataclass(frozen=True)
class Backoff:
    """Pauses that begin at `base` and double until they reach `cap`."""

    base: timedelta
    cap: timedelta

    def pause(self, number: int) -> timedelta:
        """Return the pause after the `number`-th failure or probe (1, 2, ...), before jitter."""
        doubled = self.base.total_seconds() * 2 ** min(max(number - 1, 0), _MOST_DOUBLINGS)
        return timedelta(seconds=min(self.cap.total_seconds(), doubled))


NONE: Final = Backoff(timedelta(0), timedelta(0))
PROBES: Final = Backoff(timedelta(seconds=1), timedelta(seconds=30))
"""Between two probes of a paused provider."""
