"""Erasing events of the outbox whose retention has run out, and the receivers that requests named."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, delete, select

from jobs.store import schema
from jobs.store.column_types import any_of


def prune_events(tx: Connection, before: datetime, before_event_id: str, before_job_id: str, limit: int) -> int:
    """Erase up to `limit` events made before a moment, with their deliveries, unless one is still on its way.

    Of the receivers that requests named, those go too whose response is gone. The two ids are the smallest that can
    have been made at that moment.
    """
    event, row = schema.webhook_events.c, schema.webhook_deliveries.c
    old = select(event.id).where(event.id < before_event_id, event.created_at < before)
    ids: Sequence[str] = tx.execute(old.order_by(event.id).limit(limit)).scalars().all()
    past = set(ids) - awaiting(tx, row.event_id, ids)
    tx.execute(delete(schema.webhook_events).where(any_of(event.id, past)))
    endpoint, job = schema.webhook_endpoints.c, schema.jobs.c
    named = select(endpoint.id, endpoint.job_id).where(endpoint.job_id < before_job_id)
    jobs_of = {each.id: each.job_id for each in tx.execute(named.order_by(endpoint.job_id).limit(limit))}
    kept = set(tx.execute(select(job.id).where(any_of(job.id, jobs_of.values()))).scalars())
    gone = [endpoint_id for endpoint_id, job_id in jobs_of.items() if job_id not in kept]
    told = set(gone) - awaiting(tx, row.endpoint_id, gone)
    tx.execute(delete(schema.webhook_endpoints).where(any_of(endpoint.id, told)))
    return max(len(past), len(told))


def awaiting(tx: Connection, column: ColumnElement[str], ids: Sequence[str]) -> set[str]:
    """Which of these events or endpoints have a delivery that is still on its way.

    All of each are read, as they are few: else a database would rather look through all that is on its way. Nor by
    `among`, whose plan for any number of ids would rather look through them all.
    """
    query = select(column.label("id"), schema.webhook_deliveries.c.ended_at).where(column.in_(ids))
    return {each.id for each in tx.execute(query) if each.ended_at is None}
