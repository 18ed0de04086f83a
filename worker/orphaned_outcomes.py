"""Records outcomes that other processes have left in files, before their calls count as lost.

At start all of them are recorded. Later the rescuer asks for those of silent workers, as several workers may share a
data folder.
"""

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from pathlib import Path
from threading import Lock, Thread
from time import sleep
from typing import Final

from sqlalchemy import Connection
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from jobs.job import Answer
from jobs.store.attempts import attempts_of
from jobs.store.database import CommitUnknown, Database, is_locked
from jobs.store.stream_events import append
from jobs.telemetry import get_logger
from worker.outcome import EndedCall, RecordedOutcome
from worker.pending_outcomes import LeftOver, PendingOutcomes

AWAY: Final = (OperationalError, InterfaceError, InternalError, PoolTimeoutError, CommitUnknown)
"""Errors that do not mean that the file is wrong."""
LOCKED_AGAIN_AFTER: Final = 0.1
"""Short compared with the lock timeout, so that this gets the lock before a rescuer, which skips locked jobs."""

log = get_logger(__name__)


class OrphanedOutcomes:
    """The outcomes in the files of one data folder."""

    def __init__(
        self,
        database: Database,
        pending_outcomes: PendingOutcomes,
        record_outcome: Callable[[Connection, EndedCall], RecordedOutcome | None],
        publish: Callable[[RecordedOutcome, EndedCall], None],
    ) -> None:
        self._database = database
        self._pending_outcomes = pending_outcomes
        self._record = record_outcome
        self._publish = publish
        self._impossible: set[Path] = set()
        self._claimed: dict[tuple[str, int], LeftOver] = {}
        self._guard = Lock()

    def record(self) -> None:
        """Record all of them. Those of jobs that another session has locked follow once the lock is free.

        Raises:
            SQLAlchemyError: the database is away.
        """
        # with a brief wait for locks: a session that has locked all jobs must not delay the start by a second for each
        locked = [
            left for left in self._pending_outcomes.left_over() if not self._is_recorded(left, brief_lock_wait=True)
        ]
        if locked:
            log.warning("outcomes wait, another session holds their locks", first=locked[0].ended.job.id)
            Thread(target=self._record_locked, args=(locked,), daemon=True).start()

    def claim(self, calls: AbstractSet[tuple[str, int]]) -> AbstractSet[tuple[str, int]]:
        """Return those of `calls` whose outcome is in a file. `record_claimed` records them. From any thread."""
        found = {}
        for each in calls:
            left = self._pending_outcomes.left_of(*each)
            if left is not None and left.path not in self._impossible:
                found[each] = left
        with self._guard:
            self._claimed |= found
        return found.keys()

    def record_claimed(self) -> None:
        """Record the claimed outcomes. Those of jobs that another session has locked can be claimed again.

        Raises:
            SQLAlchemyError: the database is away.
        """
        with self._guard:
            claimed, self._claimed = self._claimed, {}
        for left in claimed.values():
            self._is_recorded(left, brief_lock_wait=True)

    def _record_locked(self, locked: Sequence[LeftOver]) -> None:
        while locked:
            sleep(LOCKED_AGAIN_AFTER)
            with suppress(*AWAY):
                locked = [left for left in locked if left.path.exists() and not self._is_recorded(left)]

    def _is_recorded(self, left: LeftOver, *, brief_lock_wait: bool = False) -> bool:
        """Record it, or put it aside if that is impossible. Return False if another session has locked its job."""
        job_id, number = left.ended.job.id, left.ended.attempt.number
        try:
            recorded = self._write(left, brief_lock_wait=brief_lock_wait)
        except AWAY as error:
            if not is_locked(error):
                raise
            return False
        except Exception:  # whatever is wrong with one, the start goes on with the others
            log.exception("outcome put aside", job_id=job_id, attempt=number, file=str(left.path))
            self._impossible.add(left.path)
            left.put_aside()
            return True
        left.done()
        log.info("outcome recorded from a file", job_id=job_id, attempt=number)
        if recorded is not None:
            self._publish(recorded, left.ended)
        return True

    def _write(self, left: LeftOver, *, brief_lock_wait: bool) -> RecordedOutcome | None:
        with self._database.begin(brief_lock_wait=brief_lock_wait) as tx:
            if not attempts_of(tx, left.ended.job.id, left.ended.attempt.number - 1, limit=1):
                raise LookupError("the database does not know this call")
            if left.rest is not None and isinstance(left.ended.report.result, Answer):
                append(tx, [left.rest], wait=True)
            return self._record(tx, left.ended)
