"""The webhook outbox: events and their deliveries, written in the transaction that ends a job.

A delivery works as a job does: its row is the truth and a message only names it. A claim is one guarded UPDATE, and the
number of attempts only grows, so it is also the fence against a late sender. Each attempt has a row before it is sent.

Locks are taken in one order, endpoint before delivery, as erasing an endpoint takes them too.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, Select, and_, insert, or_, select

from jobs.ids import new_id
from jobs.job import Job
from jobs.store import schema
from jobs.store.column_types import any_of
from jobs.webhooks.protocol import EVENT_OF, MAX_FAILURES, DeliveryError, DeliveryStatus, EventType, envelope


def write_events(tx: Connection, jobs: Sequence[Job], now: datetime) -> list[str]:
    """Write the end of each job as an event for every endpoint subscribed to it.

    For a disabled endpoint the delivery is written as failed, so that its owner sees it and can recover it.

    Returns:
        The ids of the pending deliveries, to enqueue after the commit.
    """
    if not jobs:
        return []
    asked = {"keys": sorted({job.api_key_id for job in jobs}), "jobs": sorted(job.id for job in jobs)}
    endpoints = tx.execute(_ENDPOINTS, asked).all()
    pending: list[str] = []
    for job in jobs if endpoints else ():
        event_type = EVENT_OF[job.status]
        subscribed = [
            each
            for each in endpoints
            if (each.job_id == job.id or (each.job_id is None and each.api_key_id == job.api_key_id))
            and event_type in each.event_types
        ]
        if subscribed:
            event_id = _insert_event(tx, job.api_key_id, job.id, event_type, now)
            rows = [_delivery_of_event(event_id, each, now) for each in subscribed]
            tx.execute(insert(schema.webhook_deliveries), rows)
            pending += [row["id"] for row in rows if row["status"] is DeliveryStatus.PENDING]
    return pending


def _endpoints() -> Select[Any]:
    """Lock the endpoints, so that one being erased at this moment either gets its deliveries first or is not found."""
    row = schema.webhook_endpoints.c
    of_keys = and_(any_of(row.api_key_id, "keys"), row.job_id.is_(None))
    of_jobs = any_of(row.job_id, "jobs")
    columns = (row.id, row.api_key_id, row.job_id, row.target, row.event_types, row.disabled_at)
    return select(*columns).where(or_(of_keys, of_jobs)).with_for_update(read=True, key_share=True)


_ENDPOINTS: Final = _endpoints()


def _delivery_of_event(event_id: str, endpoint: Row[Any], now: datetime) -> dict[str, Any]:
    missed = {"status": DeliveryStatus.FAILED, "ended_at": now, "error_kind": DeliveryError.ENDPOINT_DISABLED}
    pending = {"status": DeliveryStatus.PENDING, "ended_at": None, "error_kind": None}
    row = _delivery_row(event_id, endpoint.id, endpoint.api_key_id, endpoint.target, now)
    return row | (pending if endpoint.disabled_at is None else missed)


def write_test(
    tx: Connection, endpoint_id: str, api_key_id: str, target: str, event_type: EventType, now: datetime
) -> str:
    """Write a test event for one endpoint; return the delivery's id. It is attempted once."""
    event_id = _insert_event(tx, api_key_id, new_id("resp_test"), event_type, now)
    row = _delivery_row(event_id, endpoint_id, api_key_id, target, now)
    row |= {"is_test": True, "status": DeliveryStatus.PENDING, "failures": MAX_FAILURES - 1}
    tx.execute(insert(schema.webhook_deliveries).values(row))
    delivery_id: str = row["id"]
    return delivery_id


def _insert_event(tx: Connection, api_key_id: str, job_id: str, event_type: EventType, now: datetime) -> str:
    event_id = new_id("evt")
    tx.execute(
        insert(schema.webhook_events).values(
            id=event_id,
            api_key_id=api_key_id,
            job_id=job_id,
            type=event_type,
            payload=envelope(event_id, event_type, job_id, now),
            created_at=now,
        )
    )
    return event_id


def _delivery_row(event_id: str, endpoint_id: str, api_key_id: str, target: str, now: datetime) -> dict[str, Any]:
    return {
        "id": new_id("whd"),
        "event_id": event_id,
        "endpoint_id": endpoint_id,
        "api_key_id": api_key_id,
        "target": target,
        "is_test": False,
        "attempts": 0,
        "failures": 0,
        "created_at": now,
        "available_at": now,
        "enqueued_at": now,  # the process that ends the job enqueues it right after the commit
    }
