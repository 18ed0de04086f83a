"""Find the job that has been due longest, and why it waits: all slots are taken, or no worker takes it."""

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
"""Time after which a due job is reported, and after which free slots that take no job are a fault."""


@dataclass(frozen=True)
class OverdueJob:
    """The job that has been due longest. `is_fault` is False on a server that is merely busy."""

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
) -> OverdueJob | None:
    """Return the job that has been due longest, with the reason. None if no job has been due for `OVERDUE`."""
    found = tx.execute(_FIRST).one_or_none()
    if found is None or found.available_at > now - OVERDUE:
        return None
    alive = live_workers(tx, now, worker_timeout)
    fault = no_taker_reason(alive) if broker_answers else no_broker_reason(alive)
    reason, is_fault = _reason(tx, provider_limit, alive, now) if fault is None else (fault, True)
    return OverdueJob(found.id, found.available_at, reason, is_fault)


def _reason(tx: Connection, settings: ProviderLimitSettings, alive: list[WorkerRow], now: datetime) -> tuple[str, bool]:
    """Return why a job waits although a worker listens, and whether that is a fault."""
    provider_limit = read_provider_limit(tx, settings.name)
    if provider_limit.paused_at is not None:
        return state_of(provider_limit, now) or "the provider is paused", True
    slots = sum(each.concurrency for each in alive if each.takes(CALLS))
    limit = settings.limit(provider_limit)
    most = slots if limit is None else min(slots, limit)
    if running_calls(tx, most) >= most:
        which = "of the workers are taken" if limit is None or slots <= limit else "that the provider allows are taken"
        return f"all {most} slots {which}", False
    took = [each.took_at for each in alive if each.takes(CALLS) and each.took_at is not None]
    if took and now - max(took) < OVERDUE:
        return "slots come free and are taken by others", False
    if any(each.queues is None for each in alive):
        return "slots are free; workers of an older release do not say when they last took a job", False
    since = f"for {(now - max(took)).total_seconds():.0f} s" if took else "since they were started"
    return f"slots are free, but the workers have taken no job {since}", True


def no_taker_reason(alive: Sequence[WorkerRow], *, broker_answers: bool = True) -> str | None:
    """Return why none of the live workers would take a due job. None if one would.

    While the broker does not answer, no worker can listen to it, so that is no reason.
    """
    if not alive:
        return "no live worker"
    if all(each.draining_at is not None for each in alive):
        return "all workers are shutting down"
    if not broker_answers or any(each.takes(CALLS) for each in alive):
        return None
    where = ", ".join(f"{each.host} (process {each.pid})" for each in alive if each.draining_at is None)
    return f"no live worker listens to the queue of jobs: {where}"


def no_broker_reason(alive: Sequence[WorkerRow]) -> str:
    """Return why a due job waits while the broker does not answer."""
    return no_taker_reason(alive, broker_answers=False) or "the broker does not answer"


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
"""One statement, because a job found by a first one may be claimed before the second reads it."""
