"""The row of this worker process in `workers`, which shows others that it is alive and what it takes."""

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
"""Longest time for a heartbeat, so that another connection is tried before the worker counts as dead."""
LONGEST_PAUSE = 2 * HEARTBEAT_EVERY
"""Seconds between two heartbeats of a healthy worker."""

log = get_logger(__name__)


@dataclass
class WorkerRegistration:
    """A row in `workers`, updated by every heartbeat. A worker that was marked dead registers a new row."""

    database: Database
    concurrency: int
    worker_id: str | None = None
    draining: bool = False
    short_of: str | None = None
    subscribed_queues: SubscribedQueues | None = None
    pending_outcomes: PendingOutcomes | None = None
    _heartbeat_at: float = field(default=float("-inf"), init=False)
    _steady_since: float = field(default=float("inf"), init=False)

    @property
    def claiming_as(self) -> str | None:
        """The worker id to claim with. None before the first heartbeat, and while draining."""
        return None if self.draining else self.worker_id

    def send_heartbeat(self) -> None:
        """Update the row. If this worker was marked dead, register anew: its calls go on and answer late."""
        fresh, former, last_at = None, self.worker_id, self._heartbeat_at
        self._heartbeat_at = float("-inf")  # until this one has succeeded
        database, draining, report = self.database, self.draining, self._report()
        if former is None or not heartbeat_now(
            database, former, within=HEARTBEAT_SECONDS, draining=draining, report=report
        ):
            with database.begin(within=HEARTBEAT_SECONDS) as tx:
                now = database.ask_time(tx)
                fresh = register(tx, socket.gethostname(), os.getpid(), self.concurrency, now)
                heartbeat(tx, fresh, now, draining=draining, report=report)
        if elapsed() - last_at > LONGEST_PAUSE:
            self._steady_since = elapsed()
        self._heartbeat_at = elapsed()
        if fresh is not None:
            self.worker_id = fresh
            log.info("worker registered", worker_id=fresh, former=former)
            ahead = self.database.clock.host_ahead
            if abs(ahead) > FAR_OFF:  # harmless here, but not for certificates or for comparing logs
                log.warning("this host's clock is off", host=socket.gethostname(), seconds=round(ahead.total_seconds()))

    def _report(self) -> Report:
        late = 0 if self.pending_outcomes is None else self.pending_outcomes.late()
        consumed = self.subscribed_queues
        queues, took_ago = (None, None) if consumed is None else (consumed.queues, consumed.took_ago)
        return Report(queues, self.concurrency, took_ago, self.short_of, late, self.database.clock.host_ahead)

    def is_steady(self, timeout: timedelta) -> bool:
        """Return whether every heartbeat of this worker has succeeded for `timeout`.

        If not, other workers may have been silent for the same reason. After the database was away, the first worker to
        come back must not mark the others dead. The same holds after this process or its host was paused, and after the
        database's clock was set, because older heartbeats were stamped by the former time.
        """
        now, since = elapsed(), max(self._steady_since, self.database.clock.stepped_at)
        return now - self._heartbeat_at <= LONGEST_PAUSE and now - since >= timeout.total_seconds()

    def leave(self) -> None:
        """Mark the row as ended. Only once nothing is held."""
        if self.worker_id is None:
            return
        with self.database.begin() as tx:
            leave(tx, self.worker_id, database_now(tx))
        self.worker_id = None
