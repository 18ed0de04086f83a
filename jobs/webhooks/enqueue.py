"""Enqueues the deliveries that the ends of jobs have written to the outbox, right after the commit.

This only saves time. `worker/maintenance/deliveries.py` enqueues every delivery that is not enqueued here: if the
process dies first, and if the jobs of a key end faster than deliveries are sent. The broker's queue is first in, first
out, so the other keys' deliveries would wait behind that key's.
"""

from collections import Counter
from collections.abc import Sequence
from time import monotonic
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from jobs.store.database import Database
from jobs.store.webhooks.claims import owners_of
from jobs.task_queue import TaskQueue
from jobs.telemetry import get_logger

LIMIT_PER_SECOND: Final = 500
"""Messages that a process enqueues within a second for any keys. A worker takes about twice as many."""
PER_KEY_ABOVE_LIMIT: Final = 50
"""Messages that it still enqueues for each key in the same second above that limit."""

log = get_logger(__name__)


class DeliveryEnqueuer:
    """Enqueues the deliveries of the jobs that one process ends."""

    def __init__(self, database: Database, task_queue: TaskQueue) -> None:
        self._database = database
        self._task_queue = task_queue
        self._second = 0
        self._enqueued = 0
        self._of_key: Counter[str] = Counter()

    def enqueue(self, delivery_ids: Sequence[str]) -> None:
        """Enqueue the deliveries of jobs whose end is committed. Never raises: the rows hold the truth."""
        if not delivery_ids:
            return
        try:
            within_bounds = self._within_bounds(delivery_ids)
        except SQLAlchemyError as error:
            log.warning("deliveries not enqueued", deliveries=len(delivery_ids), error=type(error).__name__)
            return
        self._task_queue.enqueue_deliveries(within_bounds)

    def _within_bounds(self, delivery_ids: Sequence[str]) -> Sequence[str]:
        """Return all of these while under the limit, else as many of each key's as may still be enqueued."""
        second = int(monotonic())
        if second != self._second:
            self._second, self._enqueued = second, 0
            self._of_key.clear()
        if self._enqueued + len(delivery_ids) <= LIMIT_PER_SECOND:
            self._enqueued += len(delivery_ids)
            return delivery_ids
        with self._database.read() as tx:
            owners = owners_of(tx, delivery_ids)
        kept = []
        for each in delivery_ids:
            key = owners.get(each)
            if key is not None and self._of_key[key] < PER_KEY_ABOVE_LIMIT:
                self._of_key[key] += 1
                kept.append(each)
        return kept
