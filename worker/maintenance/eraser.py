"""Deletes the provider's copies of background responses that must not be stored any more.

In its background mode the provider has to store the responses. A client that asked for `store: false` or deleted the
response here wants no copy kept, and neither does an operator whose retention has run out. The row of the attempt
remembers the copy until the provider has answered, so neither a crash nor an outage loses one.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from threading import Event

from jobs.store.attempts import mark_copy_deleted, unwanted_copies
from jobs.store.database import Database, unless_locked
from jobs.store.pending_work import COPIED_FOR
from jobs.telemetry import get_logger
from worker.maintenance.canceller import WINDOW as CANCELLED_WITHIN
from worker.maintenance.task import NoAnswer

EVERY = timedelta(seconds=3)
WINDOW = COPIED_FOR
BATCH = 200
NEVER = Event()

log = get_logger(__name__)


class Eraser:
    """Periodic task that waits for the network. Deleting twice does no harm."""

    def __init__(self, database: Database, delete: Callable[[str], bool | None]) -> None:
        """Create it.

        `delete` takes a response's id. It returns True if the copy is gone, False if it cannot be deleted and None if
        that is unknown.
        """
        self._database = database
        self._delete = delete
        self.every = EVERY

    def run_once(self, now: datetime, stopping: Event = NEVER) -> int:
        """Delete unwanted copies. Return how many are gone.

        Raises:
            NoAnswer: for at least one the provider did not say whether it is gone.
            SQLAlchemyError: the database was away.
        """
        with self._database.read() as tx:
            unwanted = unwanted_copies(tx, now - WINDOW, now - CANCELLED_WITHIN, BATCH)
        deleted = 0
        is_unknown = False
        for response_id, attempt in unwanted:
            if stopping.is_set():
                break
            is_gone = self._delete(response_id)
            if is_gone is None:
                is_unknown = True
                continue
            # a locked row is skipped, and its copy deleted once more
            with unless_locked(), self._database.begin(brief_lock_wait=True) as tx:
                mark_copy_deleted(tx, attempt)
            write = log.info if is_gone else log.error
            write("deleted at the provider" if is_gone else "the provider does not delete", job_id=attempt.job_id)
            deleted += is_gone
        if is_unknown:
            raise NoAnswer("not deleted")
        return deleted
