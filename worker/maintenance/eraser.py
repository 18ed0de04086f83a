"""Deletes at the provider what it keeps for its background mode, once nobody here is to find it any more.

That transport has to let the provider store what it makes. A client that asked for `store: false`, or that has deleted
the response here, wants it stored nowhere; so does an operator whose retention has run out. Each such copy is found by
its attempt's row, which remembers it until the provider has answered: neither a crash nor an outage forgets one.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from threading import Event

from jobs.store.attempts import mark_copy_deleted, unwanted_copies
from jobs.store.database import Database, unless_locked
from jobs.store.pending_work import COPIED_FOR
from jobs.telemetry import get_logger
from worker.maintenance.canceller import WINDOW as CANCELLED_WITHIN
from worker.maintenance.patrol import NoAnswer

EVERY = timedelta(seconds=3)
WINDOW = COPIED_FOR
BATCH = 200
NEVER = Event()

log = get_logger(__name__)


class Eraser:
    """The duty of whoever holds the lease; deleting twice does no harm."""

    def __init__(self, database: Database, delete: Callable[[str], bool | None]) -> None:
        """`delete` takes a response's id: whether it is gone, False where it cannot be deleted, None where unknown."""
        self._database = database
        self._delete = delete
        self.every = EVERY

    def run_once(self, now: datetime, stopping: Event = NEVER) -> int:
        """Delete what is unwanted; returns how many copies are gone.

        Raises:
            NoAnswer: the provider did not say what became of one.
            SQLAlchemyError: the database was away.
        """
        with self._database.read() as tx:
            unwanted = unwanted_copies(tx, now - WINDOW, now - CANCELLED_WITHIN, BATCH)
        deleted = 0
        silent = False
        for response_id, attempt in unwanted:
            if stopping.is_set():
                break
            is_gone = self._delete(response_id)
            if is_gone is None:
                silent = True
                continue
            with unless_locked(), self._database.begin(brief_lock_wait=True) as tx:  # else it is asked for again
                mark_copy_deleted(tx, attempt)
            say = log.info if is_gone else log.error
            say("deleted at the provider" if is_gone else "the provider does not delete", job_id=attempt.job_id)
            deleted += is_gone
        if silent:
            raise NoAnswer("not deleted")
        return deleted
