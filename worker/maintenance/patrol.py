"""A duty that waits for the network: it has a thread of its own, so that it holds up none of the quick ones.

One process does it at a time: whoever has the lease, which runs out when that process dies.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from threading import Event, Thread

from sqlalchemy.exc import SQLAlchemyError

from jobs.store.database import Database
from jobs.telemetry import get_logger
from worker.maintenance.lease import Lease
from worker.registration import WorkerRegistration

SHORTEST_LEASE = timedelta(seconds=5)
LONGEST_PAUSE = timedelta(minutes=5)

log = get_logger(__name__)


class NoAnswer(Exception):
    """The provider did not answer this time, or not so that it could be understood."""


class Patrol:
    """Runs `run(now)` every so often; after a failure ever more rarely, until it succeeds again."""

    def __init__(
        self,
        name: str,
        database: Database,
        registration: WorkerRegistration,
        run: Callable[[datetime, Event], int],
        *,
        every: timedelta,
        has_work: Callable[[], bool] = lambda: True,
    ) -> None:
        """`run` gives up what it is doing once the event is set; it may raise `NoAnswer`.

        While it `has_work` for nobody here, which must be found out without a question, the database is not asked.

        It may last longer than the lease, so that two do it at once: it must bear that.
        """
        self._name = name
        self._clock = database.clock
        self._registration = registration
        self._run = run
        self._every = every
        self._has_work = has_work
        self._lease = Lease(database, name, max(2 * every, SHORTEST_LEASE))
        self._stopping = Event()
        self._thread = Thread(target=self._loop, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after the request at hand."""
        self._stopping.set()

    def _loop(self) -> None:
        pause = self._every
        while not self._stopping.wait(pause.total_seconds()):
            pause = self._every if self.run_once(self._clock()) else min(2 * pause, LONGEST_PAUSE)

    def run_once(self, now: datetime) -> bool:
        """Do it, if the lease is ours; whether nothing went wrong."""
        holder = self._registration.worker_id
        if holder is None or not self._has_work():
            return True
        try:
            if not self._lease.is_held_by(holder):
                return True
            self._run(now, self._stopping)
        except (NoAnswer, SQLAlchemyError) as error:
            log.warning("patrol failed", task=self._name, error=str(error) or type(error).__name__)
            return False
        except Exception:  # one odd row must not end the duty for good
            log.exception("patrol broke", task=self._name)
            return False
        return True
