"""Who this worker process is to the others, and whether it takes on work."""

import os
import socket
from dataclasses import dataclass, field
from datetime import timedelta

from jobs.clock import FAR_OFF, elapsed
from jobs.store.database import Database, database_now
from jobs.store.workers import Report, heartbeat, heartbeat_now, leave, register
from jobs.telemetry import get_logger
from worker.celery_adapter.subscribed_queues import SubscribedQueues
from worker.pending_outcomes import PendingOutcomes

HEARTBEAT_EVERY = 2.0
HEARTBEAT_SECONDS = 4.0
"""How long a beat may take, so that another connection is tried before silence is taken for death."""
LONGEST_PAUSE = 2 * HEARTBEAT_EVERY
"""Between two beats, in seconds, of a worker that is well."""

log = get_logger(__name__)


@dataclass
class WorkerRegistration:
    """A row in `workers`, touched by every heartbeat; replaced by a fresh one after we were given up for dead."""

    database: Database
    concurrency: int
    worker_id: str | None = None
    draining: bool = False
    short_of: str | None = None
    subscribed_queues: SubscribedQueues | None = None
    pending_outcomes: PendingOutcomes | None = None
    _beaten_at: float = field(default=float("-inf"), init=False)
    _steady_since: float = field(default=float("inf"), init=False)

    @property
    def claiming_as(self) -> str | None:
        """Under which identity to claim; None while there is none, or no more work is taken on."""
        return None if self.draining else self.worker_id

    def beat(self) -> None:
        """Say that we live. Given up meanwhile, take a new identity: what we hold goes on and is delivered late."""
        fresh, former, beaten_at = None, self.worker_id, self._beaten_at
        self._beaten_at = float("-inf")  # until this one has got through
        database, draining, report = self.database, self.draining, self._report()
        if former is None or not heartbeat_now(
            database, former, within=HEARTBEAT_SECONDS, draining=draining, report=report
        ):
            with database.begin(within=HEARTBEAT_SECONDS) as tx:
                now = database.ask_time(tx)
                fresh = register(tx, socket.gethostname(), os.getpid(), self.concurrency, now)
                heartbeat(tx, fresh, now, draining=draining, report=report)
        if elapsed() - beaten_at > LONGEST_PAUSE:
            self._steady_since = elapsed()
        self._beaten_at = elapsed()
        if fresh is not None:
            self.worker_id = fresh
            log.info("worker registered", worker_id=fresh, former=former)
            ahead = self.database.clock.host_ahead
            if abs(ahead) > FAR_OFF:  # it does no harm here, but to certificates and to whoever reads two logs
                log.warning("this host's clock is off", host=socket.gethostname(), seconds=round(ahead.total_seconds()))

    def _report(self) -> Report:
        late = 0 if self.pending_outcomes is None else self.pending_outcomes.late()
        consumed = self.subscribed_queues
        queues, took_ago = (None, None) if consumed is None else (consumed.queues, consumed.took_ago)
        return Report(queues, self.concurrency, took_ago, self.short_of, late, self.database.clock.host_ahead)

    def is_steady(self, timeout: timedelta) -> bool:
        """Whether every beat of ours has got through for `timeout`; else others were perhaps silent for our reason.

        After the database was away all workers have been silent, and the first to come back must not give up the rest.
        The same holds after we were frozen, or our host slept, perhaps with theirs, and when the database's own clock
        was set, as until then they beat by the former.
        """
        now, since = elapsed(), max(self._steady_since, self.database.clock.stepped_at)
        return now - self._beaten_at <= LONGEST_PAUSE and now - since >= timeout.total_seconds()

    def leave(self) -> None:
        """Go off the list; only once nothing is held."""
        if self.worker_id is None:
            return
        with self.database.begin() as tx:
            leave(tx, self.worker_id, database_now(tx))
        self.worker_id = None
