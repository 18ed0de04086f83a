"""What this process does about the provider's lane: asks it before a claim, and tells it how calls ended.

A probe is a job's own call: every provider has that route, and nothing is bought that nobody asked for. A refusal
comes at once and an answer may take an hour, so a probe was taken once the provider has begun to answer it with
success, or has not refused it for a few seconds.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from threading import Timer
from time import monotonic

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from jobs.errors import ErrorKind, Failure
from jobs.job import Attempt, CallReport
from jobs.store import lanes
from jobs.store.database import Database, database_now
from jobs.store.lanes import Lane, LaneSettings
from jobs.store.refusals import REFUSALS, TAKEN_AFTER, is_the_accounts
from jobs.store.workers import live_slots
from jobs.telemetry import get_logger
from worker.provider.line import Line

NARROWING = frozenset({ErrorKind.RATE_LIMITED, ErrorKind.OVERLOADED})
# After these nobody knows whether the provider would have taken our key.
SAY_NOTHING = frozenset(
    {
        ErrorKind.UNREACHABLE,
        ErrorKind.OVERLOADED,
        ErrorKind.INTERRUPTED,
        ErrorKind.SERVER_ERROR,
        ErrorKind.GATEWAY_TIMEOUT,
        ErrorKind.CALL_DEADLINE,
        ErrorKind.MALFORMED_ANSWER,
    }
)
REMEMBERED_SECONDS = 0.5

log = get_logger(__name__)


class ProbeTaken(Exception):
    """Another took the probe first: undo the claim."""


class LaneKeeper:
    """One process's view of the lane."""

    def __init__(
        self, database: Database, settings: LaneSettings, worker_timeout: timedelta, clock: Callable[[], datetime]
    ) -> None:
        self._database = database
        self._settings = settings
        self._worker_timeout = worker_timeout
        self._clock = clock
        self._last = Lane(settings.name)
        self._read_at = float("-inf")
        self._narrowed_at = float("-inf")

    def is_known_shut(self) -> bool:
        """Whether the lane was shut a moment ago, so that asking the database again is no use."""
        return monotonic() - self._read_at < REMEMBERED_SECONDS and self._last.is_shut(self._clock())

    def admits(self, tx: Connection, wanted: int) -> tuple[Lane, int]:
        """The lane, and how many of so many wanted calls may go out now; one that is closed wants a single probe."""
        lane = lanes.read_lane(tx, self._settings.name)
        self._last, self._read_at = lane, monotonic()
        if lane.is_shut(self._clock()):
            return lane, 0
        room = wanted if lane.closed_at is None else 1
        limit = self._settings.limit(lane)
        if limit is not None:
            room = min(room, limit - lanes.calls_out(tx, limit))
        return lane, room

    def is_probe(self, tx: Connection, lane: Lane) -> bool:
        """Whether the call just claimed is the probe of a closed lane.

        Raises:
            ProbeTaken: another is it, so the claim must be undone.
        """
        if lane.closed_at is None:
            return False
        if not lanes.take_probe(tx, lane, self._clock()):
            raise ProbeTaken
        return True

    def watch_probe(self, attempt: Attempt, line: Line) -> Timer:
        """Open the lane as soon as the probe was taken; to be cancelled when it ends."""

        def taken() -> None:
            timer.cancel()
            self._tell(lambda tx: self._reopen(tx, attempt))

        timer = Timer(TAKEN_AFTER.total_seconds(), taken)
        timer.daemon = True
        line.when_taken = taken
        timer.start()
        return timer

    def heard(self, attempt: Attempt, report: CallReport) -> None:
        """A call has ended."""
        failure = report.result if isinstance(report.result, Failure) else None
        kind = None if failure is None else failure.kind
        if failure is not None and failure.kind in REFUSALS:
            self._tell(lambda tx: self._refused(tx, attempt, failure))
            return
        if kind in NARROWING and monotonic() - self._narrowed_at >= lanes.NARROW_EVERY.total_seconds() / 2:
            self._narrowed_at = monotonic()
            self._tell(lambda tx: self._narrow(tx, attempt))
        if self._last.closed_at is not None:
            # without a status nothing was asked of the provider, or it gave no answer
            undecided = failure is not None and (failure.kind in SAY_NOTHING or failure.http_status is None)
            self._tell(lambda tx: self._probe_later(tx, attempt) if undecided else self._reopen(tx, attempt))
        if kind is None and self._last.max_calls is not None:
            self._tell(self._widen)

    def _refused(self, tx: Connection, attempt: Attempt, failure: Failure) -> None:
        is_closed = lanes.read_lane(tx, self._settings.name).closed_at is not None
        if is_closed or is_the_accounts(tx, attempt, self._clock(), is_unmistakable=failure.is_unmistakable):
            self._close(tx, attempt, failure.kind)

    def _close(self, tx: Connection, attempt: Attempt, kind: ErrorKind) -> None:
        if lanes.close(tx, self._settings.name, kind, attempt.started_at, self._clock()):
            log.error("lane closed", lane=self._settings.name, reason=kind)
        self._last, self._read_at = lanes.read_lane(tx, self._settings.name), monotonic()

    def _reopen(self, tx: Connection, attempt: Attempt) -> None:
        if lanes.reopen(tx, self._settings.name, attempt.started_at):
            log.info("lane open", lane=self._settings.name)
        self._last, self._read_at = lanes.read_lane(tx, self._settings.name), monotonic()

    def _probe_later(self, tx: Connection, attempt: Attempt) -> None:
        lanes.probe_later(tx, self._settings.name, attempt.started_at, self._clock())

    def _narrow(self, tx: Connection, attempt: Attempt) -> None:
        limit = lanes.narrow(tx, self._settings.name, attempt.job_id, self._clock())
        if limit is not None:
            log.warning("lane narrowed", lane=self._settings.name, calls=limit)

    def _widen(self, tx: Connection) -> None:
        slots = live_slots(tx, database_now(tx), self._worker_timeout)
        lanes.widen(tx, self._settings.name, self._clock(), slots)

    def _tell(self, change: Callable[[Connection], None]) -> None:
        """The lane is a help, not a record: a database that is away will hear of the next call."""
        try:
            with self._database.begin() as tx:
                change(tx)
        except SQLAlchemyError as error:
            log.warning("lane not told", error=type(error).__name__)
        except Exception:  # whatever broke, the call's end is still to be recorded
            log.exception("lane not told")
