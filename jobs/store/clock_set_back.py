"""Rows whose moments lie in the future, as the database's clock was set back since they were written.

What is due would wait for as long as it was set back, and a provider stay paused. So such moments become now. What a
client asked for by the clock on the wall stays: a `run_at`, and a deadline, which then comes as much later.
"""

from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, or_, select, update

from jobs.clock import FAR_OFF
from jobs.retry import LONGEST_PAUSE_ASKED_FOR
from jobs.store import schema
from jobs.store.provider_limits import PROBE_TIMEOUT

MARGIN: Final = FAR_OFF
"""A moment that lies no further ahead is as good as now."""


def mend(tx: Connection, now: datetime, limit: int) -> int:
    """Mend the rows that anything waits for, at most `limit` jobs and deliveries each; how many that were."""
    after = now + MARGIN
    job, delivery = schema.jobs.c, schema.webhook_deliveries.c
    # one that was never tried and became due later than it was made has a `run_at`
    waits = (schema.IS_QUEUED, job.blocked_by.is_(None), or_(job.attempt > 0, job.available_at <= job.created_at))
    queued = select(job.id).where(*waits, job.available_at > now, job.updated_at > after).limit(limit)
    held = select(job.id).where(schema.IS_HELD, job.updated_at > after).limit(limit)
    told = or_(delivery.created_at > after, delivery.claimed_at > after)
    pending = select(delivery.id).where(schema.IS_PENDING, delivery.available_at > now, told).limit(limit)
    due = {"available_at": now, "enqueued_at": None}
    mended = _set(tx, schema.jobs, queued, due | {"updated_at": now})
    mended += _set(tx, schema.jobs, held, {"updated_at": now})
    mended += _set(tx, schema.webhook_deliveries, pending, due)
    return mended


def correct_provider_limits(tx: Connection, now: datetime) -> None:
    """Mend what is known of providers, and whose turn it is."""
    provider_limit, after = schema.provider_limits.c, now + MARGIN
    for moment in (provider_limit.paused_at, provider_limit.throttled_at, provider_limit.relaxed_at):
        tx.execute(update(schema.provider_limits).where(moment > after).values({moment: now}))
    longest = now + LONGEST_PAUSE_ASKED_FOR + PROBE_TIMEOUT
    tx.execute(update(schema.provider_limits).where(provider_limit.probe_at > longest).values(probe_at=now))
    turn = schema.api_keys.c.dispatched_at
    tx.execute(update(schema.api_keys).where(turn > after).values(dispatched_at=now))


def _set(tx: Connection, table: Any, these: Any, values: dict[str, Any]) -> int:
    free = these.with_for_update(skip_locked=True, key_share=True)
    return int(tx.execute(update(table).where(table.c.id.in_(free.scalar_subquery())).values(values)).rowcount)
