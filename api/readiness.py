"""The one list of what a response needs to be run: `/readyz` and `doctor` both tell it, so they never differ.

Nobody who asks `/readyz` is to wait for what is silent.
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
"""Later than a probe is due is a job that was refused, so that another goes before it."""
GRACE_SECONDS: Final = 0.2
"""For what was ended at its limit to be told."""

T = TypeVar("T")


class Subject(StrEnum):
    """What a fault is of."""

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
    """One thing that is not as it should be: what is missing keeps responses from being run, the rest is a warning."""

    of: Subject
    reason: str
    is_missing: bool = True


@dataclass(frozen=True)
class DatabaseState:
    """What the rows say, and in `reason` why they cannot be read or no write is taken, if so."""

    is_migrated: bool = True
    reason: str | None = None
    workers: Sequence[WorkerRow] = ()
    apis: Sequence[ApiProcess] = ()
    overdue: OverdueJob | None = None
    waited: float = 0.0
    provider_refuses: bool = False
    provider_limit: dict[str, object] | None = None

    def faults(self, broker_away: str | None) -> list[Fault]:
        """All of them, in the order in which things are needed; `broker_away` is why the broker takes no messages."""
        found = []
        if self.reason is not None:  # a worker that is not heard may just be unable to write that it lives
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
        unheard = no_taker_reason(self.workers, broker_answers=broker_answers)
        if unheard is not None:
            found.append(Fault(Subject.WORKER, unheard))
        if self.provider_refuses and self.provider_limit is not None:
            found.append(Fault(Subject.PROVIDER, str(self.provider_limit["state"])))
        if broker_answers and self.overdue is not None and self.overdue.is_fault and not found:
            found.append(Fault(Subject.PICK_UP, self.overdue.reason))
        return found

    def waiting(self, broker_away: str | None) -> dict[str, object] | None:
        """The job that has been due for longest, if for long, and why it waits."""
        if self.overdue is None:
            return None
        reason = self.overdue.reason
        if self.reason is not None:
            reason = f"the database takes no writes: {self.reason}"
        elif broker_away is not None:
            reason = no_broker_reason(self.workers)
        return {"id": self.overdue.job_id, "seconds": self.waited, "reason": reason}


def unseen(error: SQLAlchemyError | TimeoutError) -> DatabaseState:
    """What a look shows that failed."""
    return DatabaseState(reason=failure_reason(error))


def look(database: Database, writes: WriteProbe, settings: Settings) -> DatabaseState:
    """Look at the rows, and try a small write.

    Raises:
        SQLAlchemyError: nothing could be read, or SQLite's file was replaced.
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
        # with nothing waiting, a lane whose probe is due tries the next response at once; who was refused waits longer
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
        provider_limit=_shown(provider_limit, limit_settings, now),
    )


def _shown(provider_limit: ProviderLimit, settings: ProviderLimitSettings, now: datetime) -> dict[str, object]:
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
    """Looks for all who ask at the same time, on a thread of its own, which may be stuck. Belongs to one event loop."""

    def __init__(self, name: str, look: Callable[[], T]) -> None:
        self._look = look
        self._thread = ThreadPoolExecutor(1, name)
        self._looking: Future[T] | None = None
        self._began_at = float("-inf")

    async def ask(self) -> T:
        """What a look sees, or the one that is under way; raises what it raises.

        Raises:
            TimeoutError: it has not ended within two seconds.
        """
        if self._looking is None or self._looking.done():
            self._looking, self._began_at = self._thread.submit(self._look), monotonic()
        left = self._began_at + LIMIT_SECONDS + GRACE_SECONDS - monotonic()
        async with timeout(max(0.0, left)):
            return await wrap_future(self._looking)
