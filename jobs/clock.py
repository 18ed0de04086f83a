"""The time that everything is decided by: the database's, as one process knows it, whatever its host's clock says.

The database is asked for it with each heartbeat, and a clock that nobody can set counts on from there. So a host that
is hours off, or is set while jobs run, neither ends a job before its deadline nor keeps one from its turn.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from threading import Lock
from typing import Final

STEP: Final = timedelta(seconds=1)
"""By so much more than a clock drifts, and than an answer takes, two askings differ only after somebody set it."""
AGREE_WITHIN: Final = timedelta(seconds=0.25)
"""Two processes know the database's time this well: one may not be told that it came too early by the other."""
FAR_OFF: Final = timedelta(seconds=5)
"""By so much a host's clock may be off without a word to the operator."""
ON_TIME: Final = timedelta(0)
_BOOTTIME: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # macOS counts sleep in the latter


def elapsed() -> float:
    """Seconds on a clock that is never set; unlike `time.monotonic` on Linux it counts the time that a host slept."""
    return time.clock_gettime(_BOOTTIME)


def host_now() -> datetime:
    """The host's own clock."""
    return datetime.now(UTC)


class Clock:
    """Call it for the moment; until the database has been asked it is the host's. Safe to share between threads."""

    def __init__(self, host: Callable[[], datetime] = host_now) -> None:
        self.host = host
        self._began: datetime | None = None  # the moment at which `elapsed` was zero
        self._stepped_at = float("-inf")
        self._guard = Lock()

    def __call__(self) -> datetime:
        """Return the database's time, without asking it."""
        began = self._began
        return self.host() if began is None else began + timedelta(seconds=elapsed())

    @property
    def is_set(self) -> bool:
        """Whether the database has been asked."""
        return self._began is not None

    @property
    def began_at(self) -> datetime | None:
        """The moment at which `elapsed` was zero; None until the database has been asked."""
        return self._began

    @property
    def stepped_at(self) -> float:
        """When, by `elapsed`, the database's own clock was last found to have been set; minus infinity if never."""
        return self._stepped_at

    @property
    def was_set(self) -> bool:
        """Whether the database's own clock was ever found to have been set."""
        return self._stepped_at > float("-inf")

    @property
    def host_ahead(self) -> timedelta:
        """By how much the host's clock is ahead of this one; negative where it is behind."""
        return self.host() - self()

    def learn(self, moment: datetime, asked_at: float) -> None:
        """Take in that the database's time was `moment` at some time since `asked_at`, by `elapsed`, until now.

        What agrees with that stays, so that a slow answer makes nothing worse; else as little as possible is changed.
        """
        answered_at = elapsed()
        earliest, latest = moment - timedelta(seconds=answered_at), moment - timedelta(seconds=asked_at)
        with self._guard:
            if self._began is None:
                self._began = earliest + (latest - earliest) / 2
                return
            self._begin_at(min(max(self._began, earliest), latest))

    def follow(self, began_at: datetime) -> None:
        """Take in that the database's time was exactly `began_at` when `elapsed` was zero."""
        with self._guard:
            self._begin_at(began_at)

    def _begin_at(self, began: datetime) -> None:
        if self._began is not None and abs(began - self._began) > STEP:
            self._stepped_at = elapsed()
        self._began = began
