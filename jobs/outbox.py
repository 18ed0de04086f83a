"""Rings for what jobs' ends have put into the outbox, right after its commit.

It only saves time: whoever has no time for it, or dies before it, leaves the deliveries to the dispatcher.
"""

from collections.abc import Sequence

from sqlalchemy.exc import SQLAlchemyError

from jobs.dispatch import Dispatcher
from jobs.store.database import Database
from jobs.store.deliveries import pending_of_jobs
from jobs.telemetry import get_logger

log = get_logger(__name__)


class Outbox:
    """Where a process that ends jobs says so."""

    def __init__(self, database: Database, dispatcher: Dispatcher) -> None:
        self._database = database
        self._dispatcher = dispatcher

    def jobs_ended(self, job_ids: Sequence[str], deliveries: Sequence[str] | None = None) -> None:
        """Ring for the deliveries of jobs whose end is committed, which are looked up unless they are given.

        Never raises: the rows hold the truth.
        """
        if not job_ids:
            return
        try:
            pending = deliveries if deliveries is not None else self._pending(job_ids)
        except SQLAlchemyError as error:
            log.warning("deliveries not rung for", jobs=len(job_ids), error=type(error).__name__)
            return
        self._dispatcher.ring_for_deliveries(pending)

    def _pending(self, job_ids: Sequence[str]) -> list[str]:
        with self._database.read() as tx:
            return pending_of_jobs(tx, job_ids)
