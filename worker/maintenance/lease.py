"""Which of all workers does a duty: whoever holds its lease, which runs out when that worker dies.

A lease only spares work. What it is for is guarded by itself, and must not stand still with it.
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
"""Within which a lease is taken, or asked for again. Where the connections of all workers go silent at once, each of
them may be asking for it, and nobody would do anything for as long as any transaction may take."""
APART_SECONDS: Final = 0.25
"""Within so many seconds after a lease has run out the others ask for it, not all at once: the first takes it."""

log = get_logger(__name__)


class Lease:
    """A lease as one worker process knows it. Not for several threads at once.

    It is written only if it is ours or has run out. Whoever finds it another's asks again once it has run out: not by
    any clock but its own, so that no step of one makes it wait longer than a lease lasts.
    """

    def __init__(self, database: Database, name: str, length: timedelta) -> None:
        self._database = database
        self._name = name
        self._length = length
        self._holder: str | None = None
        self._asked_from = float("-inf")

    @property
    def seconds_of_others(self) -> float:
        """How long it need not be asked for, as it is another's."""
        return max(0.0, self._asked_from - monotonic())

    def is_held_by(self, holder: str) -> bool:
        """Whether it is held by us, `holder`, or is locked so that nobody can have it.

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
        """For how many seconds it is still another's, as is noted."""
        with self._database.read(within=ASKING_SECONDS) as tx:
            noted = lease_left(tx, self._name, holder)
        if noted > 2 * self._length:  # it was taken before the clock was set back, and may be taken over
            return 0.0
        left = min(noted, self._length).total_seconds()
        if left <= 0:
            return 0.0
        self._asked_from = monotonic() + left + APART_SECONDS * SystemRandom().random()
        return left

    def _take(self, holder: str) -> bool:
        return take_lease_now(self._database, self._name, holder, self._length, within=ASKING_SECONDS)
