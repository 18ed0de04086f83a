"""Corrects times in the future after the database's clock was set back, so that nothing waits for them."""

from datetime import datetime
from typing import Final

from jobs.clock import elapsed
from jobs.store.clock_set_back import correct_provider_limits, correct_rows
from jobs.store.database import Database, unless_locked
from jobs.telemetry import get_logger

AT_ONCE: Final = 2_000
AFTER_SECONDS: Final = 15.0
"""Seconds after a step in which other processes may still write the time from before it."""

log = get_logger(__name__)


class ClockSetBack:
    """Periodic task. It looks once at start, as a step may have come before, and after each step that it sees."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._is_done = False

    def run_once(self, now: datetime) -> int:
        """Make due what lies in the future by mistake. Return how many jobs and deliveries.

        Raises:
            SQLAlchemyError: the database was away.
        """
        if self._is_done and elapsed() - self._database.clock.stepped_at > AFTER_SECONDS:
            return 0
        with unless_locked(), self._database.begin(brief_lock_wait=True) as tx:
            correct_provider_limits(tx, now)
        with self._database.begin() as tx:
            mended = correct_rows(tx, now, AT_ONCE)
        self._is_done = mended < AT_ONCE
        if mended:
            log.warning("made due, as the clock was set back", count=mended)
        return mended
