"""Makes the time on SQLite follow the host's clock after that was set, so slowly that no deadline comes much too early.

A step may be an error that somebody will correct, or time that passed while a virtual machine was halted. The two look
the same. While jobs are open, the time runs faster or slower by a hundredth: a job with an hour left loses 36 s of it.
If no open job could lose time, it is set at once, unless the host's clock was set again in the meantime.
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
"""Seconds. Until they have looked, processes may differ by a hundredth of it, less than `AGREE_WITHIN`."""
RATE: Final = 0.01
TOLERANCE: Final = timedelta(seconds=0.05)
SETTLED_SECONDS: Final = 30.0
"""Seconds for which the host's clock must run undisturbed before the time is set by it at once."""
SOON: Final = timedelta(minutes=1)

_JOB: Final = schema.jobs.c
_BEFORE_ITS_TIME: Final = and_(
    schema.IS_QUEUED,
    _JOB.attempt == 0,
    _JOB.available_at > bindparam("later", type_=UtcDateTime),
    _JOB.blocked_by.is_(None),
)
"""Jobs that wait for their `run_at`, which is a time of day."""
_OPEN: Final = select(exists().where(_JOB.completed_at.is_(None), not_(_BEFORE_ITS_TIME)))

log = get_logger(__name__)


class Timekeeper:
    """Periodic task. Not for several threads at once."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._clock = database.clock
        self._ahead = timedelta(0)
        self._settled_since = self._moved_at = elapsed()
        self._is_logged = False

    def run_once(self) -> timedelta:
        """Move the time a little towards the host's clock. Return by how much.

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
        self._log(ahead)
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

    def _log(self, ahead: timedelta) -> None:
        is_off = abs(ahead) > FAR_OFF
        if is_off and not self._is_logged:
            log.warning("time follows this host's clock", seconds=round(ahead.total_seconds()), rate=RATE)
        self._is_logged = is_off


def _at_most(span: timedelta, most: timedelta) -> timedelta:
    return max(-most, min(span, most))
