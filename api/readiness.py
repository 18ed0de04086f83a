"""What `/readyz` sees in the database, and how it asks: nobody who asks is to wait for what is silent."""

from asyncio import wait_for, wrap_future
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import monotonic
from typing import Final, Generic, TypeVar

from jobs.settings import Settings
from jobs.store.awaited import state_of
from jobs.store.database import Database, database_now
from jobs.store.lanes import Lane, LaneSettings, read_lane
from jobs.store.queries import oldest_due_at
from jobs.store.standstill import Waiting, overdue_job, why_none_takes, why_without_broker
from jobs.store.workers import WorkerRow, live_workers, shown_shortage, shown_unrecorded
from jobs.store.writing import LIMIT_SECONDS, TRY_SECONDS, WriteProbe
from migrations import is_current

AFTER_A_PROBE: Final = timedelta(seconds=2)
"""Later than a probe is due is a job that was refused, so that another goes before it."""
GRACE_SECONDS: Final = 0.2
"""For what was ended at its limit to be told."""

T = TypeVar("T")


@dataclass(frozen=True)
class DatabaseState:
    """What the rows say, and in `reason` why no write is taken, if none is."""

    is_migrated: bool = True
    reason: str | None = None
    workers: Sequence[WorkerRow] = ()
    overdue: Waiting | None = None
    waited: float = 0.0
    provider_refuses: bool = False
    lane: dict[str, object] | None = None

    @property
    def warnings(self) -> list[str]:
        """What the workers are short of, and what they cannot record."""
        short = [shown_shortage(each) for each in self.workers if each.short_of is not None]
        return short + [shown_unrecorded(each) for each in self.workers if each.unrecorded]

    def missing(self, *, broker_answers: bool) -> list[str]:
        """What of `migrations`, `worker`, `provider` and `pick-up` is."""
        if not self.is_migrated:
            return ["migrations"]
        unheard = why_none_takes(self.workers, broker_answers=broker_answers) is not None
        missing = ["worker"] * unheard + ["provider"] * self.provider_refuses
        if broker_answers and self.overdue is not None and self.overdue.is_fault and not missing:
            missing.append("pick-up")
        return missing

    def waiting(self, *, broker_answers: bool) -> dict[str, object] | None:
        """The job that has been due for longest, if for long, and why it waits."""
        if self.overdue is None:
            return None
        reason = self.overdue.reason
        if self.reason is not None:
            reason = f"the database takes no writes: {self.reason}"
        elif not broker_answers:
            reason = why_without_broker(self.workers)
        return {"id": self.overdue.job_id, "seconds": self.waited, "reason": reason}


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
        workers = live_workers(tx, at, settings.worker_timeout)
        lane_settings, now = LaneSettings.from_settings(settings), at
        overdue = overdue_job(tx, lane_settings, at, settings.worker_timeout)
        lane = read_lane(tx, lane_settings.name)
        # with nothing waiting, a lane whose probe is due tries the next response at once; who was refused waits longer
        refuses = lane.closed_at is not None and (lane.is_shut(now - AFTER_A_PROBE) or oldest_due_at(tx) is not None)
    return DatabaseState(
        reason=writes.reason(),
        workers=workers,
        overdue=overdue,
        waited=0.0 if overdue is None else round((at - overdue.due_at).total_seconds(), 1),
        provider_refuses=refuses,
        lane=_shown(lane, lane_settings, now),
    )


def _shown(lane: Lane, settings: LaneSettings, now: datetime) -> dict[str, object]:
    limit = settings.limit(lane)
    state = "closed" if lane.closed_at is not None else "open" if lane.max_calls is None else "narrowed"
    return {"lane": state, "reason": lane.closed_for, "state": state_of(lane, now), "max_calls": limit}


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
        return await wait_for(wrap_future(self._looking), max(0.0, left))
