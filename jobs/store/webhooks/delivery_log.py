"""The log of an endpoint's deliveries, and the two ways to send them again: redeliver one, recover the missed ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, case, func, select, update

from jobs.errors import DeliveryNotFound
from jobs.store import schema
from jobs.store.column_types import any_of
from jobs.store.metrics import count_waiting
from jobs.store.webhooks.endpoints import Endpoint, change_endpoint
from jobs.webhooks.protocol import MAX_FAILURES, DeliveryError, DeliveryStatus, EventType


@dataclass(frozen=True)
class DeliveryAttempt:
    """One request that was sent, or was to be sent. Of the answer only the HTTP status is kept."""

    number: int
    started_at: datetime
    ended_at: datetime | None
    http_status: int | None
    error_kind: DeliveryError | None


@dataclass(frozen=True)
class Delivery:
    """One event for one endpoint, with its attempts in order."""

    id: str
    endpoint_id: str
    event_id: str
    event_type: EventType
    response_id: str
    status: DeliveryStatus
    is_test: bool
    created_at: datetime
    available_at: datetime
    ended_at: datetime | None
    http_status: int | None
    error_kind: DeliveryError | None
    attempts: tuple[DeliveryAttempt, ...]


def list_deliveries(
    tx: Connection, endpoint: Endpoint, *, limit: int, after: str | None = None, status: DeliveryStatus | None = None
) -> tuple[list[Delivery], bool]:
    """Return a page of an endpoint's deliveries, newest first, after the id `after`; and whether more follow."""
    row = schema.webhook_deliveries.c
    query = _deliveries().where(row.endpoint_id == endpoint.id).order_by(row.id.desc()).limit(limit + 1)
    if after is not None:
        query = query.where(row.id < after)
    if status is not None:
        query = query.where(row.status == status)
    found = tx.execute(query).mappings().all()
    return _with_attempts(tx, found[:limit]), len(found) > limit


def get_delivery(tx: Connection, delivery_id: str, api_key_id: str) -> Delivery:
    """Return a delivery of an API key.

    Raises:
        DeliveryNotFound: it does not exist, or belongs to another key.
    """
    row = schema.webhook_deliveries.c
    found = tx.execute(_deliveries().where(row.id == delivery_id, row.api_key_id == api_key_id)).mappings().all()
    if not found:
        raise DeliveryNotFound(f"Webhook delivery with id '{delivery_id}' not found.", "webhook_delivery_id")
    return _with_attempts(tx, found)[0]


def is_enabled(tx: Connection, delivery: Delivery) -> bool:
    """Return whether the endpoint of a delivery is enabled."""
    row = schema.webhook_endpoints.c
    return tx.execute(select(row.disabled_at).where(row.id == delivery.endpoint_id)).scalar() is None


def redeliver(tx: Connection, delivery_id: str, now: datetime) -> bool:
    """Make a delivery due now; return False if it is being sent at this moment.

    One that has ended gets a single attempt. One that is pending keeps its count of failures, and so its schedule.
    """
    row = schema.webhook_deliveries.c
    failures = case((row.ended_at.is_(None), row.failures), else_=MAX_FAILURES - 1)
    this = update(schema.webhook_deliveries).where(row.id == delivery_id, row.status != DeliveryStatus.SENDING)
    values = {"status": DeliveryStatus.PENDING, "available_at": now, "enqueued_at": now, "ended_at": None}
    return tx.execute(this.values(failures=failures, **values)).rowcount == 1


def recover(tx: Connection, endpoint: Endpoint, since: datetime, now: datetime) -> int:
    """Restart the failed deliveries that an endpoint has had since a moment; return their number.

    An event has one delivery per endpoint, so each is sent once. A disabled endpoint is enabled.
    """
    if endpoint.disabled_at is not None:
        change_endpoint(tx, endpoint, {}, now, enable=True)
    row = schema.webhook_deliveries.c
    missed = update(schema.webhook_deliveries).where(
        row.endpoint_id == endpoint.id,
        row.created_at >= since,
        row.status == DeliveryStatus.FAILED,
        row.is_test.is_(False),
    )
    values = {
        "status": DeliveryStatus.PENDING,
        "failures": 0,
        "available_at": now,
        "enqueued_at": None,
        "ended_at": None,
    }
    return tx.execute(missed.values(values)).rowcount


def count_open_deliveries(tx: Connection) -> Mapping[DeliveryStatus, int]:
    """Return the number of pending and of sending deliveries over all API keys, for the operator.

    If many are pending, PostgreSQL's estimate: see `count_waiting`.
    """
    table = schema.webhook_deliveries
    pending = count_waiting(tx, table, schema.IS_PENDING, "ix_webhook_deliveries_due")
    sending = count_waiting(tx, table, schema.IS_SENDING, "ix_webhook_deliveries_sending")
    return {DeliveryStatus.PENDING: pending, DeliveryStatus.SENDING: sending}


def count_ended_deliveries(tx: Connection, since: datetime) -> Mapping[DeliveryStatus, int]:
    """Return the number of deliveries over all API keys that have ended since a moment, for the operator."""
    row = schema.webhook_deliveries.c
    query = select(row.status, func.count().label("number")).where(row.ended_at >= since).group_by(row.status)
    found: dict[str, int] = {each.status: each.number for each in tx.execute(query)}
    return {status: found.get(status, 0) for status in (DeliveryStatus.DELIVERED, DeliveryStatus.FAILED)}


def oldest_undelivered_at(tx: Connection) -> datetime | None:
    """Return the creation time of the oldest delivery over all API keys that has not ended, for the operator."""
    row = schema.webhook_deliveries.c
    moment: datetime | None = tx.execute(select(func.min(row.created_at)).where(row.ended_at.is_(None))).scalar()
    return moment


def _deliveries() -> Select[Any]:
    event, row = schema.webhook_events.c, schema.webhook_deliveries.c
    return select(schema.webhook_deliveries, event.type, event.job_id).join(
        schema.webhook_events, event.id == row.event_id
    )


def _with_attempts(tx: Connection, rows: Sequence[RowMapping]) -> list[Delivery]:
    row = schema.webhook_delivery_attempts.c
    query = select(schema.webhook_delivery_attempts).where(any_of(row.delivery_id, [each["id"] for each in rows]))
    attempts: dict[str, list[DeliveryAttempt]] = {}
    for each in sorted(tx.execute(query).mappings(), key=itemgetter("number")):
        attempts.setdefault(each["delivery_id"], []).append(
            DeliveryAttempt(each["number"], each["started_at"], each["ended_at"], each["http_status"], _error(each))
        )
    return [
        Delivery(
            id=each["id"],
            endpoint_id=each["endpoint_id"],
            event_id=each["event_id"],
            event_type=EventType(each["type"]),
            response_id=each["job_id"],
            status=DeliveryStatus(each["status"]),
            is_test=each["is_test"],
            created_at=each["created_at"],
            available_at=each["available_at"],
            ended_at=each["ended_at"],
            http_status=each["http_status"],
            error_kind=_error(each),
            attempts=tuple(attempts.get(each["id"], ())),
        )
        for each in rows
    ]


def _error(row: RowMapping) -> DeliveryError | None:
    return None if row["error_kind"] is None else DeliveryError(row["error_kind"])
