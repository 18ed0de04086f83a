"""Correct rows whose times lie in the future, because the database's clock was set back since they were written.

Otherwise a due job would wait, and a provider stay paused, for as long as the clock was set back. Such times become
now. A `run_at` and a deadline stay, as clients name them by the clock.
"""

from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, or_, select, update

from jobs.clock import FAR_OFF
from jobs.retry import LONGEST_PAUSE_ASKED_FOR
from jobs.store import schema
from jobs.store.provider_limits import PROBE_TIMEOUT

MARGIN: Final = FAR_OFF
"""Times up to this far in the future are left as they are."""


def correct_rows(tx: Connection, now: datetime, limit: int) -> int:
    """Correct at most `limit` queued jobs, running jobs and deliveries each; return the number of corrected rows."""
    after = now + MARGIN
    job, delivery = schema.jobs.c, schema.webhook_deliveries.c
    # a job without attempts that became due after its creation has a `run_at`
    waiting = (schema.IS_QUEUED, job.blocked_by.is_(None), or_(job.attempt > 0, job.available_at <= job.created_at))
    queued = select(job.id).where(*waiting, job.available_at > now, job.updated_at > after).limit(limit)
    held = select(job.id).where(schema.IS_HELD, job.updated_at > after).limit(limit)
    is_ahead = or_(delivery.created_at > after, delivery.claimed_at > after)
    pending = select(delivery.id).where(schema.IS_PENDING, delivery.available_at > now, is_ahead).limit(limit)
    due = {"available_at": now, "enqueued_at": None}
    corrected = _set(tx, schema.jobs, queued, due | {"updated_at": now})
    corrected += _set(tx, schema.jobs, held, {"updated_at": now})
    corrected += _set(tx, schema.webhook_deliveries, pending, due)
    return corrected


def correct_provider_limits(tx: Connection, now: datetime) -> None:
    """Correct the limits of providers, and the time at which each key was last served."""
    provider_limit, after = schema.provider_limits.c, now + MARGIN
    for column in (provider_limit.paused_at, provider_limit.throttled_at, provider_limit.relaxed_at):
        tx.execute(update(schema.provider_limits).where(column > after).values({column: now}))
    longest = now + LONGEST_PAUSE_ASKED_FOR + PROBE_TIMEOUT
    tx.execute(update(schema.provider_limits).where(provider_limit.probe_at > longest).values(probe_at=now))
    served_at = schema.api_keys.c.served_at
    tx.execute(update(schema.api_keys).where(served_at > after).values(served_at=now))


def _set(tx: Connection, table: Any, these: Any, values: dict[str, Any]) -> int:
    free = these.with_for_update(skip_locked=True, key_share=True)
    return int(tx.execute(update(table).where(table.c.id.in_(free.scalar_subquery())).values(values)).rowcount)
