"""Calls that may have been billed and whose answer we do not have, and what the provider's own log says of them."""

from datetime import datetime

from sqlalchemy import Connection, func, select, text, update

from jobs.errors import Billed
from jobs.job import Attempt, Cost, Usage
from jobs.store import tables
from jobs.store.rows import attempt_from, cost_columns, usage_columns

# The part on cost is as the partial index says it, so that both databases see that it fits.
_DOUBTFUL = text("billed IN ('unknown', 'likely') AND cost_microusd IS NULL AND reconciled_at IS NULL")


def doubtful_attempts(tx: Connection, ended_after: datetime, ended_before: datetime, limit: int) -> list[Attempt]:
    """The oldest calls, at most `limit`, that ended in this span with nobody knowing what they cost."""
    row = tables.attempts.c
    query = select(tables.attempts).where(_DOUBTFUL, row.ended_at > ended_after, row.ended_at <= ended_before)
    return [attempt_from(each) for each in tx.execute(query.order_by(row.ended_at).limit(limit)).mappings()]


def book_true_cost(tx: Connection, attempt: Attempt, cost: Cost, usage: Usage | None, now: datetime) -> bool:
    """The provider's log says that the call ran: book what it cost, once, on the call and its job.

    False when the call has been booked meanwhile, by a late answer or another reconciler.
    """
    job = tables.jobs.c
    tx.execute(select(job.id).where(job.id == attempt.job_id).with_for_update(key_share=True))
    values = {"billed": Billed.YES, "reconciled_at": now, **cost_columns(cost), **usage_columns(usage)}
    if not _settle(tx, attempt, values):
        return False
    total = func.coalesce(job.cost_microusd, 0) + cost.microusd
    booking = update(tables.jobs).where(job.id == attempt.job_id)
    tx.execute(booking.values(cost_microusd=total, cost_source=cost.source, updated_at=now))
    return True


def book_not_billed(tx: Connection, attempt: Attempt, now: datetime) -> bool:
    """The provider's log says that the call failed: nothing was taken for it."""
    return _settle(tx, attempt, {"billed": Billed.NO, "reconciled_at": now})


def _settle(tx: Connection, attempt: Attempt, values: dict[str, object]) -> bool:
    row = tables.attempts.c
    settling = update(tables.attempts).where(row.job_id == attempt.job_id, row.number == attempt.number, _DOUBTFUL)
    return tx.execute(settling.values(values)).rowcount == 1
