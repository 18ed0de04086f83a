"""Lets the time on SQLite follow the host's clock after that was set, so slowly that no deadline comes early by much.

A step may be an error that somebody puts right, or time that really went by while a virtual machine was halted: nobody
can tell. With open jobs the time runs faster or slower by a hundredth, so that what has an hour left loses 36 s of it.
With none open that could lose anything it is set at once, if the host's clock has not been set again meanwhile.
"""

from datetime import timedelta
from typing import Final

from sqlalchemy import and_, bindparam, exists, not_, select

from jobs.clock import FAR_OFF, STEP, elapsed
from jobs.store import schema
from jobs.store.column_types import UtcDateTime
from jobs.store.database import Database
from jobs.telemetry import get_logger

EVERY: Final = 5.0
"""In seconds; by a hundredth of it, less than `AGREE_WITHIN`, processes may differ until they have looked."""
RATE: Final = 0.01
TOLERANCE: Final = timedelta(seconds=0.05)
SETTLED_SECONDS: Final = 30.0
"""For so long the host's clock has to go on undisturbed before the time is set by it at once."""
SOON: Final = timedelta(minutes=1)

_JOB: Final = schema.jobs.c
_BEFORE_ITS_TIME: Final = and_(
    schema.IS_QUEUED,
    _JOB.attempt == 0,
    _JOB.available_at > bindparam("later", type_=UtcDateTime),
    _JOB.blocked_by.is_(None),
)
"""A job that waits for its `run_at`, which its client means by a clock on the wall."""
_OPEN: Final = select(exists().where(_JOB.completed_at.is_(None), not_(_BEFORE_ITS_TIME)))

log = get_logger(__name__)


class Timekeeper:
    """The duty of whoever holds the lease. Not for several threads at once."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._clock = database.clock
        self._ahead = timedelta(0)
        self._settled_since = self._moved_at = elapsed()
        self._is_told = False

    def run_once(self) -> timedelta:
        """Let the time follow the host's clock a little; returns by how much it was moved.

        Raises:
            SQLAlchemyError: the database was away.
        """
        ahead, now = self._clock.host_ahead, elapsed()
        if abs(ahead - self._ahead) > STEP:
            self._settled_since = now
        self._ahead = ahead
        most = RATE * min(now - self._moved_at, 2 * EVERY)
        self._moved_at = now
        if not self._clock.is_set or abs(ahead) < TOLERANCE:
            return timedelta(0)
        self._tell(ahead)
        with self._database.begin() as tx:
            ahead = self._clock.host_ahead  # another may have set the time just now
            later = max(self._clock(), self._clock() + ahead) + SOON
            at_once = abs(ahead) > STEP and now - self._settled_since >= SETTLED_SECONDS
            at_once = at_once and not tx.execute(_OPEN, {"later": later}).scalar_one()
            by = ahead if at_once else _at_most(ahead, timedelta(seconds=most))
            moved = self._database.set_time(tx, by)
        if moved and at_once:
            log.warning("time set by this host's clock", seconds=round(by.total_seconds()))
        return by if moved else timedelta(0)

    def _tell(self, ahead: timedelta) -> None:
        is_off = abs(ahead) > FAR_OFF
        if is_off and not self._is_told:
            log.warning("time follows this host's clock", seconds=round(ahead.total_seconds()), rate=RATE)
        self._is_told = is_off


def _at_most(span: timedelta, most: timedelta) -> timedelta:
    return max(-most, min(span, most))
