"""The lease that lets one worker at a time run the periodic tasks. It runs out if that worker dies.

A lease only avoids double work: each task guards its own changes. So the tasks must go on if the lease is locked.
"""

from datetime import timedelta
from random import SystemRandom
from time import monotonic
from typing import Final

from sqlalchemy.exc import DBAPIError

from jobs.store.database import Database, is_locked
from jobs.store.leases import lease_left, take_lease_now
from jobs.telemetry import get_logger

ASKING_SECONDS: Final = 2.0
"""Limit for reading or taking a lease. If the connections of all workers go silent at once, each of them may be waiting
for the lease, and no task would run for as long as a transaction may take."""
APART_SECONDS: Final = 0.25
"""Span after a lease has run out in which the others ask for it, each at a random moment: the first one takes it."""

log = get_logger(__name__)


class Lease:
    """A lease as one worker process knows it. Not for several threads at once.

    The row is written only if the lease is ours or has run out. If another worker has it, this one asks again once it
    has run out. That is counted by the process's own clock, so that a clock that is set delays it no longer than a
    lease lasts.
    """

    def __init__(self, database: Database, name: str, length: timedelta) -> None:
        self._database = database
        self._name = name
        self._length = length
        self._holder: str | None = None
        self._asked_from = float("-inf")

    @property
    def seconds_of_others(self) -> float:
        """Seconds for which another worker has the lease, so that asking is of no use."""
        return max(0.0, self._asked_from - monotonic())

    def is_held_by(self, holder: str) -> bool:
        """Return whether `holder`, this worker, has the lease, or another session's lock keeps all workers from it.

        Raises:
            SQLAlchemyError: the database is away.
        """
        if self.seconds_of_others:
            return False
        try:
            taken = (self._holder == holder or not self._left(holder)) and self._take(holder)
        except DBAPIError as error:
            if not is_locked(error):
                raise
            log.warning("going on without a lease, another session holds its lock", lease=self._name)
            return True
        self._holder = holder if taken else None
        return taken

    def _left(self, holder: str) -> float:
        """Return for how many seconds another worker still has it, as its row says."""
        with self._database.read(within=ASKING_SECONDS) as tx:
            left = lease_left(tx, self._name, holder)
        if left > 2 * self._length:  # from before the clock was set back: it may be taken over
            return 0.0
        seconds = min(left, self._length).total_seconds()
        if seconds <= 0:
            return 0.0
        self._asked_from = monotonic() + seconds + APART_SECONDS * SystemRandom().random()
        return seconds

    def _take(self, holder: str) -> bool:
        return take_lease_now(self._database, self._name, holder, self._length, within=ASKING_SECONDS)
