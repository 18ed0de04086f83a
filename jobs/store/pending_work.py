"""Find the periodic tasks that may have work, by one statement a second for all of them.

Each part of it is one probe of an index. It may report work where there is none, but never misses any.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Integer, Select, bindparam, literal_column, or_, select, true

from jobs.store import schema
from jobs.store.column_types import UtcDateTime
from jobs.store.webhooks.results import CLAIM_TIMEOUT


class PeriodicTask(StrEnum):
    """A task that one worker process does for all."""

    RESCUER = "rescuer"
    DEADLINES = "deadlines"
    FOLLOW_UPS = "follow_ups"
    ENQUEUER = "enqueuer"
    DELIVERY_RESCUER = "delivery rescuer"
    DELIVERY_ENQUEUER = "delivery enqueuer"
    RECONCILIATION = "reconciliation"
    CANCELLATION = "cancellation"
    ERASURE = "erasure"


UNFETCHED_FOR: Final = timedelta(days=1)
"""Age up to which an ended call's unfetched response is cancelled at the provider."""
DOUBTFUL_FOR: Final = timedelta(hours=6)
"""Age up to which an ended call of unknown cost is looked up in the provider's log."""
COPIED_FOR: Final = timedelta(days=60)
"""Age up to which an ended call's copy is deleted at the provider. OpenAI stores a response for 30 days."""


def tasks_with_work(
    tx: Connection, now: datetime, worker_timeout: timedelta, provider_limit: str
) -> AbstractSet[PeriodicTask]:
    """Return the tasks that may have work at `now`."""
    asked = {
        "now": now,
        "of_provider": provider_limit,
        "silent_since": now - worker_timeout,
        "ahead_of": now + worker_timeout,
        "claimed_before": now - CLAIM_TIMEOUT,
        "unfetched_since": now - UNFETCHED_FOR,
        "doubtful_since": now - DOUBTFUL_FOR,
        "copied_since": now - COPIED_FOR,
    }
    found = tx.execute(_TO_DO, asked).one()
    return frozenset(task for task, has_work in zip(_PARTS, found, strict=True) if has_work)


def _any(query: Select[Any]) -> ColumnElement[bool]:
    """Return the condition that the query finds a row.

    It uses LIMIT, because PostgreSQL ignores the ORDER BY within EXISTS, and with it the index.
    """
    return query.limit(literal_column("1", Integer)).scalar_subquery().is_not(None)


def _time(name: str) -> ColumnElement[datetime]:
    return bindparam(name, type_=UtcDateTime)


def _parts() -> Mapping[PeriodicTask, ColumnElement[bool]]:
    job, call, delivery = schema.jobs.c, schema.attempts.c, schema.webhook_deliveries.c
    worker, provider_limit = schema.workers.c, schema.provider_limits.c
    previous = schema.jobs.alias("before").c
    ended = select(worker.id).where(worker.ended_at.is_not(None))
    living = select(worker.id).where(worker.id == delivery.worker_id, worker.ended_at.is_(None)).exists()
    silent = or_(worker.heartbeat_at < _time("silent_since"), worker.heartbeat_at > _time("ahead_of"))
    parked = select(job.id).where(job.parked_until.is_not(None)).order_by(job.parked_until)
    overdue = select(job.id).where(job.completed_at.is_(None), job.deadline_at <= _time("now"))
    is_blocked = select(previous.id).where(previous.id == job.blocked_by, previous.completed_at.is_(None)).exists()
    lost_delivery = or_(~living, delivery.claimed_at < _time("claimed_before"))
    doubtful = select(call.ended_at).where(schema.IS_DOUBTFUL, call.ended_at > _time("doubtful_since"))
    unfetched = select(call.ended_at).where(schema.IS_UNFETCHED, call.ended_at > _time("unfetched_since"))
    copied = select(call.ended_at).where(call.copy_unwanted == true(), call.ended_at > _time("copied_since"))
    return {
        PeriodicTask.RESCUER: or_(
            _any(select(worker.id).where(worker.ended_at.is_(None), silent)),
            _any(select(job.worker_id).where(schema.IS_HELD, job.worker_id.in_(ended))),
            _any(select(call.worker_id).where(call.ended_at.is_(None), call.worker_id.in_(ended))),
        ),
        PeriodicTask.DEADLINES: or_(
            _any(overdue.order_by(job.deadline_at)), _any(parked.where(job.parked_until <= _time("now")))
        ),
        PeriodicTask.FOLLOW_UPS: _any(
            select(job.id).where(job.blocked_by.is_not(None), ~is_blocked).order_by(job.blocked_by)
        ),
        PeriodicTask.ENQUEUER: or_(
            _any(select(job.priority).where(schema.IS_QUEUED).order_by(job.priority)),
            _any(
                select(provider_limit.name).where(
                    provider_limit.name == bindparam("of_provider"), provider_limit.max_calls.is_not(None)
                )
            ),
        ),
        PeriodicTask.DELIVERY_RESCUER: _any(select(delivery.id).where(schema.IS_SENDING, lost_delivery)),
        PeriodicTask.DELIVERY_ENQUEUER: _any(
            select(delivery.target).where(schema.IS_PENDING).order_by(delivery.target)
        ),
        PeriodicTask.RECONCILIATION: or_(_any(doubtful.order_by(call.ended_at)), _any(parked)),
        PeriodicTask.CANCELLATION: _any(unfetched.order_by(call.ended_at)),
        PeriodicTask.ERASURE: _any(copied.order_by(call.ended_at)),
    }


_PARTS: Final = _parts()
_TO_DO: Final = select(*(part.label(f"part_{number}") for number, part in enumerate(_PARTS.values())))
