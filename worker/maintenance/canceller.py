"""Ends at the provider what was bought in its background mode and is wanted by nobody any more.

A job that is cancelled, or whose deadline passes, while a worker holds its call is stopped by that worker. One that
waits to be resumed has none, and who cancelled it must not call the provider; so it is found here, by its rows alone.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from threading import Event

from jobs.job import Attempt, CallReport, Outcome
from jobs.model_catalog import Catalogue, Model
from jobs.store.attempts import end_attempts, unwanted_responses
from jobs.store.database import Database
from jobs.store.pending_work import UNFETCHED_FOR
from jobs.telemetry import get_logger
from worker.maintenance.patrol import NoAnswer

EVERY = timedelta(seconds=3)
WINDOW = UNFETCHED_FOR
BATCH = 50
NEVER = Event()

log = get_logger(__name__)


class Canceller:
    """The duty of whoever holds the lease; cancelling twice does no harm."""

    def __init__(
        self, database: Database, cancel: Callable[[str, Model], CallReport | None], catalogue: Catalogue
    ) -> None:
        """`cancel` takes a response's id and its model, and reports what became of it, if the provider says."""
        self._database = database
        self._cancel = cancel
        self._catalogue = catalogue
        self.every = EVERY

    def run_once(self, now: datetime, stopping: Event = NEVER) -> int:
        """Cancel what is left; returns how many the provider had a word on.

        Raises:
            NoAnswer: it did not say what became of one.
            SQLAlchemyError: the database was away.
        """
        with self._database.read() as tx:
            unwanted = unwanted_responses(tx, now - WINDOW, BATCH)
        cancelled = 0
        silent = False
        for response_id, attempt in unwanted:
            if stopping.is_set():
                break
            ended = self._end(response_id, attempt, now)
            cancelled += ended
            silent = silent or not ended
        if silent:
            raise NoAnswer("not cancelled")
        return cancelled

    def _end(self, response_id: str, attempt: Attempt, now: datetime) -> bool:
        report = self._cancel(response_id, self._catalogue.of_job(attempt.model))
        if report is None:
            return False
        with self._database.begin() as tx:
            end_attempts(tx, [(attempt, Outcome.CANCELLED, report)], now)
        cost = report.cost.microusd if report.cost else None
        log.info("cancelled at the provider", job_id=attempt.job_id, attempt=attempt.number, cost_microusd=cost)
        return True
