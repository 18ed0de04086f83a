"""Rings for what jobs' ends have put into the outbox, right after its commit.

It only saves time: whoever has no time for it, or dies before it, leaves the deliveries to the dispatcher. So do the
ends of a key that come faster than bells are answered, as the broker's queue has no turns: others' would wait in it.
"""

from collections import Counter
from collections.abc import Sequence
from time import monotonic
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from jobs.store.database import Database
from jobs.store.webhooks.claims import owners_of
from jobs.store.webhooks.outbox import pending_of_jobs
from jobs.task_queue import TaskQueue
from jobs.telemetry import get_logger

CALM: Final = 500
"""Bells that a process rings within a second for whomever; a worker answers about twice as many."""
BEYOND_CALM: Final = 50
"""Those that it rings for each key above them."""

log = get_logger(__name__)


class Outbox:
    """Where a process that ends jobs says so."""

    def __init__(self, database: Database, task_queue: TaskQueue) -> None:
        self._database = database
        self._task_queue = task_queue
        self._second = 0
        self._enqueued = 0
        self._of_key: Counter[str] = Counter()

    def jobs_ended(self, job_ids: Sequence[str], deliveries: Sequence[str] | None = None) -> None:
        """Ring for the deliveries of jobs whose end is committed, which are looked up unless they are given.

        Never raises: the rows hold the truth.
        """
        if not job_ids:
            return
        try:
            pending = deliveries if deliveries is not None else self._pending(job_ids)
            pending = self._within_bounds(pending)
        except SQLAlchemyError as error:
            log.warning("deliveries not rung for", jobs=len(job_ids), error=type(error).__name__)
            return
        self._task_queue.enqueue_deliveries(pending)

    def _pending(self, job_ids: Sequence[str]) -> list[str]:
        with self._database.read() as tx:
            return pending_of_jobs(tx, job_ids)

    def _within_bounds(self, delivery_ids: Sequence[str]) -> Sequence[str]:
        """All of these on a calm second, else as many of each key's as it may still have rung for."""
        second = int(monotonic())
        if second != self._second:
            self._second, self._enqueued = second, 0
            self._of_key.clear()
        if self._enqueued + len(delivery_ids) <= CALM:
            self._enqueued += len(delivery_ids)
            return delivery_ids
        with self._database.read() as tx:
            owners = owners_of(tx, delivery_ids)
        within = []
        for each in delivery_ids:
            key = owners.get(each)
            if key is not None and self._of_key[key] < BEYOND_CALM:
                self._of_key[key] += 1
                within.append(each)
        return within
