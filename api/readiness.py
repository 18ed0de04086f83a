"""Checks of everything that a response needs to run. `/readyz` and `doctor` share them, so they never differ.

`/readyz` answers in time even if database or broker are silent.
"""

from asyncio import timeout, wrap_future
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from time import monotonic
from typing import Final, Generic, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from jobs.settings import Settings
from jobs.store.database import Database, database_now
from jobs.store.host_clocks import describe_clocks
from jobs.store.overdue_jobs import OverdueJob, no_broker_reason, no_taker_reason, overdue_job
from jobs.store.provider_limits import ProviderLimit, ProviderLimitSettings, read_provider_limit
from jobs.store.responses import oldest_due_at
from jobs.store.undelivered_creates import ApiProcess, live_processes
from jobs.store.waiting_for import state_of
from jobs.store.workers import WorkerRow, describe_shortage, describe_unrecorded, live_workers
from jobs.store.write_probe import LIMIT_SECONDS, TRY_SECONDS, WriteProbe, failure_reason
from migrations import is_current

THROTTLED: Final = "throttled"
AFTER_A_PROBE: Final = timedelta(seconds=2)
"""Time after a probe is due at which a refused job is due again, so that another job makes the probe."""
GRACE_SECONDS: Final = 0.2
"""Seconds for a check that was ended at its time limit to report that."""

T = TypeVar("T")


class Subject(StrEnum):
    """The part of the system that a fault is about."""

    DATABASE = "database"
    MIGRATIONS = "migrations"
    BROKER = "broker"
    WORKER = "worker"
    PROVIDER = "provider"
    PICK_UP = "pick-up"
    LIMITS = "limits"
    ANSWERS = "answers"
    CLOCKS = "clocks"


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong. If it `is_missing`, responses cannot run; else it is a warning."""

    of: Subject
    reason: str
    is_missing: bool = True


@dataclass(frozen=True)
class DatabaseState:
    """State read from the database. `reason` says why it cannot be read or written; None if it can."""

    is_migrated: bool = True
    reason: str | None = None
    workers: Sequence[WorkerRow] = ()
    apis: Sequence[ApiProcess] = ()
    overdue: OverdueJob | None = None
    waited: float = 0.0
    provider_refuses: bool = False
    provider_limit: dict[str, object] | None = None

    def faults(self, broker_away: str | None) -> list[Fault]:
        """Return all faults, what is needed first at the top. `broker_away` is why the broker takes no messages."""
        found = []
        if self.reason is not None:  # a silent worker may be alive and unable to write its heartbeat
            found.append(Fault(Subject.DATABASE, self.reason))
        elif not self.is_migrated:
            found.append(Fault(Subject.MIGRATIONS, "its tables are not those of this release"))
        else:
            found += self._of_rows(broker_answers=broker_away is None)
        if broker_away is not None:
            found.append(Fault(Subject.BROKER, broker_away))
        found += [
            Fault(Subject.LIMITS, describe_shortage(each), is_missing=False) for each in self.workers if each.short_of
        ]
        found += [
            Fault(Subject.ANSWERS, describe_unrecorded(each), is_missing=False)
            for each in self.workers
            if each.unrecorded
        ]
        clocks = describe_clocks(self.workers, self.apis)
        return found + [Fault(Subject.CLOCKS, each, is_missing=False) for each in clocks]

    def _of_rows(self, *, broker_answers: bool) -> list[Fault]:
        found = []
        no_worker = no_taker_reason(self.workers, broker_answers=broker_answers)
        if no_worker is not None:
            found.append(Fault(Subject.WORKER, no_worker))
        if self.provider_refuses and self.provider_limit is not None:
            found.append(Fault(Subject.PROVIDER, str(self.provider_limit["state"])))
        if broker_answers and self.overdue is not None and self.overdue.is_fault and not found:
            found.append(Fault(Subject.PICK_UP, self.overdue.reason))
        return found

    def waiting(self, broker_away: str | None) -> dict[str, object] | None:
        """Return the job that has been due for longest, if that is long, and why it waits."""
        if self.overdue is None:
            return None
        reason = self.overdue.reason
        if self.reason is not None:
            reason = f"the database takes no writes: {self.reason}"
        elif broker_away is not None:
            reason = no_broker_reason(self.workers)
        return {"id": self.overdue.job_id, "seconds": self.waited, "reason": reason}


def unreadable(error: SQLAlchemyError | TimeoutError) -> DatabaseState:
    """Return the state that a failed look shows."""
    return DatabaseState(reason=failure_reason(error))


def look(database: Database, writes: WriteProbe, settings: Settings) -> DatabaseState:
    """Read the state from the database, and try a small write.

    Raises:
        SQLAlchemyError: the database could not be read, or SQLite's file was replaced.
    """
    database.check_file()
    with database.read(within=TRY_SECONDS) as tx:
        if not is_current(tx):
            return DatabaseState(is_migrated=False)
        at = database_now(tx)
        workers, apis = live_workers(tx, at, settings.worker_timeout), live_processes(tx, at)
        limit_settings, now = ProviderLimitSettings.from_settings(settings), at
        overdue = overdue_job(tx, limit_settings, at, settings.worker_timeout)
        provider_limit = read_provider_limit(tx, limit_settings.name)
        # a paused provider whose probe is due gets the next response at once, unless refused ones still wait
        refuses = provider_limit.paused_at is not None and (
            provider_limit.refuses_all(now - AFTER_A_PROBE) or oldest_due_at(tx) is not None
        )
    return DatabaseState(
        reason=writes.reason(),
        workers=workers,
        apis=apis,
        overdue=overdue,
        waited=0.0 if overdue is None else round((at - overdue.due_at).total_seconds(), 1),
        provider_refuses=refuses,
        provider_limit=_describe(provider_limit, limit_settings, now),
    )


def _describe(provider_limit: ProviderLimit, settings: ProviderLimitSettings, now: datetime) -> dict[str, object]:
    limit = settings.limit(provider_limit)
    state = (
        "paused"
        if provider_limit.paused_at is not None
        else "active"
        if provider_limit.max_calls is None
        else THROTTLED
    )
    return {
        "limit": state,
        "reason": provider_limit.pause_kind,
        "state": state_of(provider_limit, now),
        "max_calls": limit,
    }


class Probe(Generic[T]):
    """Runs a check in a thread of its own, once for all who ask at the same time. Belongs to one event loop."""

    def __init__(self, name: str, look: Callable[[], T]) -> None:
        self._look = look
        self._thread = ThreadPoolExecutor(1, name)
        self._looking: Future[T] | None = None
        self._began_at = float("-inf")

    async def ask(self) -> T:
        """Return the result of the check under way, or of a new one; raise what it raises.

        Raises:
            TimeoutError: it has not ended within two seconds.
        """
        if self._looking is None or self._looking.done():
            self._looking, self._began_at = self._thread.submit(self._look), monotonic()
        left = self._began_at + LIMIT_SECONDS + GRACE_SECONDS - monotonic()
        async with timeout(max(0.0, left)):
            return await wrap_future(self._looking)
