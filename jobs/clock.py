"""The database's time as one process knows it, which decides everything. The host's clock may differ.

The database is asked for its time with each heartbeat, and a clock that cannot be set counts on from there. So a host
whose clock is hours off, or is set while jobs run, neither ends a job before its deadline nor delays one.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from threading import Lock
from typing import Final

STEP: Final = timedelta(seconds=1)
"""Difference between two readings that means that the clock was set: more than drift and a slow answer can make."""
AGREE_WITHIN: Final = timedelta(seconds=0.25)
"""Accuracy with which two processes agree. One must not refuse the other as too early within it."""
FAR_OFF: Final = timedelta(seconds=5)
"""Error of a host's clock from which on the operator is warned."""
ON_TIME: Final = timedelta(0)
_BOOTTIME: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # macOS counts sleep in the latter


def elapsed() -> float:
    """Return the seconds of a clock that is never set. Unlike `time.monotonic` on Linux it counts a host's sleep."""
    return time.clock_gettime(_BOOTTIME)


def host_now() -> datetime:
    """Return the time of the host's own clock."""
    return datetime.now(UTC)


class Clock:
    """A callable for the current time: the host's until the database was asked. Safe to share between threads."""

    def __init__(self, host: Callable[[], datetime] = host_now) -> None:
        self.host = host
        self._began: datetime | None = None  # the time at which `elapsed` was zero
        self._stepped_at = float("-inf")
        self._guard = Lock()

    def __call__(self) -> datetime:
        """Return the database's time, without asking it."""
        began = self._began
        return self.host() if began is None else began + timedelta(seconds=elapsed())

    @property
    def is_set(self) -> bool:
        """Return whether the database has been asked."""
        return self._began is not None

    @property
    def began_at(self) -> datetime | None:
        """The time at which `elapsed` was zero; None until the database has been asked."""
        return self._began

    @property
    def stepped_at(self) -> float:
        """Value of `elapsed` when the database's own clock was last found to be set; minus infinity if never."""
        return self._stepped_at

    @property
    def was_set(self) -> bool:
        """Return whether the database's own clock was ever found to be set."""
        return self._stepped_at > float("-inf")

    @property
    def host_ahead(self) -> timedelta:
        """Time by which the host's clock is ahead of this one; negative if it is behind."""
        return self.host() - self()

    def learn(self, moment: datetime, asked_at: float) -> None:
        """Learn that the database's time was `moment` at some point between `asked_at`, by `elapsed`, and now.

        A clock that agrees with this stays as it is, so that a slow answer does not make it worse. Else it changes as
        little as possible.
        """
        answered_at = elapsed()
        earliest, latest = moment - timedelta(seconds=answered_at), moment - timedelta(seconds=asked_at)
        with self._guard:
            if self._began is None:
                self._began = earliest + (latest - earliest) / 2
                return
            self._begin_at(min(max(self._began, earliest), latest))

    def follow(self, began_at: datetime) -> None:
        """Learn that the database's time was exactly `began_at` when `elapsed` was zero."""
        with self._guard:
            self._begin_at(began_at)

    def _begin_at(self, began: datetime) -> None:
        if self._began is not None and abs(began - self._began) > STEP:
            self._stepped_at = elapsed()
        self._began = began
