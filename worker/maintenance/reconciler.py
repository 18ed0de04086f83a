"""After a lost answer, asks the provider's own log whether the call ran and what it cost.

The answer itself cannot be fetched. A job that must not be billed twice is parked until then. It runs again if the log
shows that its call failed, and ends if the log shows that it ran. Without a log, no job waits.
"""

from contextlib import suppress
from datetime import datetime, timedelta
from threading import Event

from jobs.errors import StaleJob
from jobs.job import Attempt
from jobs.lifecycle import Actor
from jobs.notifications import Notifier
from jobs.store.database import Database, unless_locked
from jobs.store.pending_work import DOUBTFUL_FOR
from jobs.store.provider_limits import log_is_off, read_provider_limit
from jobs.store.reconciliation import book_failed, book_ran, doubtful_attempts, parked_jobs
from jobs.task_queue import TaskQueue
from jobs.telemetry import get_logger
from worker.maintenance.deadlines import end_parked
from worker.maintenance.provider_calls_log import Entry, LogOff, ProviderLog

EVERY = timedelta(seconds=10)
WINDOW = DOUBTFUL_FOR
BATCH = 500
OFF = timedelta(hours=1)
NEVER = Event()

log = get_logger(__name__)


class Reconciler:
    """Periodic task that waits for the network. If two workers run it at once, the log is only asked twice."""

    def __init__(
        self,
        database: Database,
        task_queue: TaskQueue,
        notifier: Notifier,
        provider_log: ProviderLog,
        *,
        provider_limit: str,
        after: timedelta,
    ) -> None:
        """Create it.

        Calls are looked up once they have been over for `after`. The row of `provider_limit` remembers a missing log.
        """
        self._database = database
        self._task_queue = task_queue
        self._notifier = notifier
        self._log = provider_log
        self._provider_limit = provider_limit
        self._after = after
        self._has_answered = False
        self.every = min(EVERY, max(timedelta(seconds=1), after))

    def run_once(self, now: datetime, stopping: Event = NEVER) -> int:
        """Look up the calls that are in doubt. Return how many of them the log has.

        Until the log has answered once, parked jobs are looked up without delay: without a log they need not wait.

        Raises:
            NoAnswer: the log did not answer.
            SQLAlchemyError: the database was away.
        """
        with self._database.read() as tx:
            waited = timedelta(0) if not self._has_answered and parked_jobs(tx, 1) else self._after
            is_on = read_provider_limit(tx, self._provider_limit).has_log(now)
            doubtful = doubtful_attempts(tx, now - WINDOW, now - waited, BATCH) if is_on else []
        if not is_on:  # jobs parked by workers that did not know that yet
            end_parked(self._database, self._notifier, now, by=Actor.RECONCILER)
        if not doubtful:
            return 0
        try:
            return self._look_up(doubtful, now, stopping)
        except LogOff as reason:
            self._has_answered = False
            log.warning("the provider's log of calls cannot be read", reason=str(reason))
            with self._database.begin() as tx:
                log_is_off(tx, self._provider_limit, now + OFF)
            end_parked(self._database, self._notifier, now, by=Actor.RECONCILER)
            return 0

    def _look_up(self, doubtful: list[Attempt], now: datetime, stopping: Event) -> int:
        wanted = {f"{each.job_id}:{each.number}": each for each in doubtful}
        known = 0
        for request_id, entry in self._log.entries(min(each.started_at for each in doubtful), now):
            self._has_answered = True
            attempt = wanted.pop(request_id, None)
            if attempt is not None:
                self._book(attempt, entry, now)
                known += 1
            if not wanted or stopping.is_set():
                break
        self._has_answered = True
        return known

    def _book(self, attempt: Attempt, entry: Entry, now: datetime) -> None:
        moved = None
        # it was just cancelled, its late answer came, or another session has it locked: the next run books the rest
        with suppress(StaleJob), unless_locked(), self._database.begin(brief_lock_wait=True) as tx:
            ran = (entry.cost, entry.usage) if entry.ran else None
            moved = book_failed(tx, attempt, now) if ran is None else book_ran(tx, attempt, *ran, now)
        if moved is None:
            return
        found = {"ran": entry.ran, "cost_microusd": entry.cost.microusd}
        log.info("reconciled", job_id=attempt.job_id, attempt=attempt.number, **found)
        verb, ([job], deliveries) = moved
        log.info(verb, job_id=job.id, attempt=job.attempt, status=job.status)
        if job.status.is_terminal:
            self._notifier.ended([job.id], deliveries)
        else:
            self._task_queue.enqueue([job.id])
