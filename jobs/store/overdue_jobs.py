"""Says why a due job waits: whether all slots are taken, or nobody takes it though somebody should."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, and_, select

from jobs.store import schema
from jobs.store.fair_scheduler import queued_groups
from jobs.store.provider_limits import ProviderLimitSettings, read_provider_limit, running_calls
from jobs.store.waiting_for import state_of
from jobs.store.workers import CALLS, WorkerRow, live_workers

OVERDUE: Final = timedelta(seconds=30)
"""How long a due job waits before the reason is given; also how long no job is taken before that counts as a fault."""


@dataclass(frozen=True)
class Waiting:
    """The longest waiting of the due jobs. A fault is for somebody to mend; a busy server is none."""

    job_id: str
    due_at: datetime
    reason: str
    is_fault: bool


def overdue_job(
    tx: Connection,
    provider_limit: ProviderLimitSettings,
    now: datetime,
    worker_timeout: timedelta,
    *,
    broker_answers: bool = True,
) -> Waiting | None:
    """The job that has been due for longest, if for longer than `OVERDUE`, and why it waits."""
    found = tx.execute(_FIRST).one_or_none()
    if found is None or found.available_at > now - OVERDUE:
        return None
    alive = live_workers(tx, now, worker_timeout)
    fault = why_none_takes(alive) if broker_answers else why_without_broker(alive)
    reason, is_fault = _reason(tx, provider_limit, alive, now) if fault is None else (fault, True)
    return Waiting(found.id, found.available_at, reason, is_fault)


def _reason(tx: Connection, settings: ProviderLimitSettings, alive: list[WorkerRow], now: datetime) -> tuple[str, bool]:
    """Why a job waits though a worker listens."""
    provider_limit = read_provider_limit(tx, settings.name)
    if provider_limit.paused_at is not None:
        return state_of(provider_limit, now) or "the provider is paused", True
    slots = sum(each.concurrency for each in alive if each.takes(CALLS))
    limit = settings.limit(provider_limit)
    most = slots if limit is None else min(slots, limit)
    if running_calls(tx, most) >= most:
        whose = "of the workers are taken" if limit is None or slots <= limit else "that the provider allows are taken"
        return f"all {most} slots {whose}", False
    took = [each.took_at for each in alive if each.takes(CALLS) and each.took_at is not None]
    if took and now - max(took) < OVERDUE:
        return "slots come free and are taken by others", False
    if any(each.queues is None for each in alive):
        return "slots are free; workers of an older release do not say when they last took a job", False
    since = f"for {(now - max(took)).total_seconds():.0f} s" if took else "since they were started"
    return f"slots are free, but the workers have taken no job {since}", True


def why_none_takes(alive: Sequence[WorkerRow], *, broker_answers: bool = True) -> str | None:
    """Why none of the live workers would take a job that is due; None if one would.

    While the broker does not answer, nobody can listen to it, and that says nothing of the workers.
    """
    if not alive:
        return "no live worker"
    if all(each.draining_at is not None for each in alive):
        return "all workers are shutting down"
    if not broker_answers or any(each.takes(CALLS) for each in alive):
        return None
    where = ", ".join(f"{each.host} (process {each.pid})" for each in alive if each.draining_at is None)
    return f"no live worker listens to the queue of jobs: {where}"


def why_without_broker(alive: Sequence[WorkerRow]) -> str:
    """Why a job that is due waits while the broker does not answer."""
    return why_none_takes(alive, broker_answers=False) or "the broker does not answer"


_GROUP: Final = queued_groups().c
_EARLIEST: Final = (
    select(_GROUP.priority, _GROUP.key, _GROUP.available_at)
    .where(_GROUP.number > 0)
    .order_by(_GROUP.available_at)
    .limit(1)
    .subquery("earliest")
)
_JOB: Final = schema.jobs.c
_FIRST: Final = (
    select(_JOB.id, _JOB.available_at)
    .join_from(
        _EARLIEST,
        schema.jobs,
        and_(
            schema.IS_QUEUED,
            _JOB.priority == _EARLIEST.c.priority,
            _JOB.api_key_id == _EARLIEST.c.key,
            _JOB.available_at == _EARLIEST.c.available_at,
        ),
    )
    .limit(1)
)
"""One statement, as the job that is found may be gone by the next, while others have waited nearly as long."""
