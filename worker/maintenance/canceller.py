"""Cancels at the provider the background responses of jobs that have ended.

If a job is cancelled, or passes its deadline, while a worker holds its call, that worker stops the call. A job that
waits to be resumed has no worker, and the API must not call the provider. Such jobs are found here by their rows.
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
from worker.maintenance.task import NoAnswer

EVERY = timedelta(seconds=3)
WINDOW = UNFETCHED_FOR
BATCH = 50
NEVER = Event()

log = get_logger(__name__)


class Canceller:
    """Periodic task that waits for the network. Cancelling twice does no harm."""

    def __init__(
        self, database: Database, cancel: Callable[[str, Model], CallReport | None], catalogue: Catalogue
    ) -> None:
        """Create it. `cancel` takes a response's id and model. It returns None if the provider gives no report."""
        self._database = database
        self._cancel = cancel
        self._catalogue = catalogue
        self.every = EVERY

    def run_once(self, now: datetime, stopping: Event = NEVER) -> int:
        """Cancel unwanted responses. Return for how many the provider gave a report.

        Raises:
            NoAnswer: it gave none for at least one.
            SQLAlchemyError: the database was away.
        """
        with self._database.read() as tx:
            unwanted = unwanted_responses(tx, now - WINDOW, BATCH)
        cancelled = 0
        is_missing = False
        for response_id, attempt in unwanted:
            if stopping.is_set():
                break
            ended = self._end(response_id, attempt, now)
            cancelled += ended
            is_missing = is_missing or not ended
        if is_missing:
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
