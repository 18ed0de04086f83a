"""Erases events whose retention has run out, and the endpoints that single responses named."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, delete, select

from jobs.store import schema
from jobs.store.column_types import any_of


def delete_response_endpoints(tx: Connection, job_ids: Sequence[str]) -> None:
    """Delete the endpoints that erased jobs named, except those with an open delivery: `prune_events` deletes them."""
    row = schema.webhook_endpoints.c
    named = tx.execute(select(row.id).where(any_of(row.job_id, job_ids))).scalars().all()
    done = [each for each in named if not _with_open_delivery(tx, schema.webhook_deliveries.c.endpoint_id, [each])]
    if done:
        tx.execute(delete(schema.webhook_endpoints).where(any_of(row.id, done)))


def prune_events(tx: Connection, before: datetime, before_event_id: str, before_job_id: str, limit: int) -> int:
    """Delete up to `limit` events created before a moment, with their deliveries, except those with an open delivery.

    Also delete the endpoints that single responses named and whose response is gone. The two ids are the smallest that
    can have been made at that moment.
    """
    event, row = schema.webhook_events.c, schema.webhook_deliveries.c
    old = select(event.id).where(event.id < before_event_id, event.created_at < before)
    ids: Sequence[str] = tx.execute(old.order_by(event.id).limit(limit)).scalars().all()
    past = set(ids) - _with_open_delivery(tx, row.event_id, ids)
    tx.execute(delete(schema.webhook_events).where(any_of(event.id, past)))
    endpoint, job = schema.webhook_endpoints.c, schema.jobs.c
    named = select(endpoint.id, endpoint.job_id).where(endpoint.job_id < before_job_id)
    jobs_of = {each.id: each.job_id for each in tx.execute(named.order_by(endpoint.job_id).limit(limit))}
    kept = set(tx.execute(select(job.id).where(any_of(job.id, jobs_of.values()))).scalars())
    gone = [endpoint_id for endpoint_id, job_id in jobs_of.items() if job_id not in kept]
    done = set(gone) - _with_open_delivery(tx, row.endpoint_id, gone)
    tx.execute(delete(schema.webhook_endpoints).where(any_of(endpoint.id, done)))
    return max(len(past), len(done))


def _with_open_delivery(tx: Connection, column: ColumnElement[str], ids: Sequence[str]) -> set[str]:
    """Return those of these events or endpoints that have a delivery which has not ended.

    All deliveries of each are read, as they are few. With a condition on `ended_at` a database would scan all open
    deliveries instead, and so it would with `any_of`, whose plan does not know the number of ids.
    """
    query = select(column.label("id"), schema.webhook_deliveries.c.ended_at).where(column.in_(ids))
    return {each.id for each in tx.execute(query) if each.ended_at is None}
