"""One periodic task of the maintenance loop."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

LONGEST_PAUSE = 300.0


class NoAnswer(Exception):
    """The provider did not answer this time, or its answer could not be understood."""


@dataclass
class Task:
    """A function that is run every so many seconds, and the moment at which it is due again.

    `run` returns how much it has done. If that is `most`, there may be more to do and the task is due at once. One that
    `waits_for_network` runs on a thread of its own, so that it delays no other, and ever more rarely while it fails. It
    may outlast the lease, so two workers may run it at once.
    """

    name: str
    every: float
    run: Callable[[datetime], int]
    most: float = float("inf")
    waits_for_network: bool = False
    due_at: float = 0.0
    is_running: bool = False
    pause: float = 0.0

    def end(self, now: float, *, has_failed: bool) -> None:
        """Note the end of a run on a thread of its own."""
        self.pause = min(2 * (self.pause or self.every), LONGEST_PAUSE) if has_failed else self.every
        self.due_at = now + self.pause
        self.is_running = False
