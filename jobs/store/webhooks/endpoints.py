"""Webhook endpoints of an API key, and the log of their deliveries.

Every function for callers is scoped by API key. An endpoint that a single response named has a row as well, which none
of them returns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, case, delete, func, insert, select, update

from jobs.errors import DeliveryNotFound, EndpointNotFound, TooManyEndpoints
from jobs.ids import new_id
from jobs.job import WebhookTarget
from jobs.store import schema
from jobs.store.column_types import any_of
from jobs.store.metrics import count_waiting
from jobs.webhooks.protocol import MAX_FAILURES, OLD_SECRET_LIVES, DeliveryError, DeliveryStatus, DisabledFor, EventType

MOST_ENDPOINTS = 100
"""Per API key. The end of each response reads all of them."""


@dataclass(frozen=True)
class EncryptedSecret:
    """A signing secret as it is stored, and the part of it that its owner may see later."""

    encrypted: str = field(repr=False)
    hint: str


@dataclass(frozen=True)
class Endpoint:
    """One row of `webhook_endpoints` without its secrets."""

    id: str
    api_key_id: str
    name: str
    url: str
    target: str
    event_types: tuple[EventType, ...]
    secret_hint: str
    former_until: datetime | None
    created_at: datetime
    updated_at: datetime
    failing_since: datetime | None
    disabled_at: datetime | None
    disabled_for: DisabledFor | None


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


def create_endpoint(
    tx: Connection,
    api_key_id: str,
    *,
    name: str,
    url: str,
    target: str,
    event_types: Sequence[EventType],
    secret: EncryptedSecret,
    now: datetime,
) -> Endpoint:
    """Register an endpoint.

    Raises:
        TooManyEndpoints: the key already has `MOST_ENDPOINTS`.
    """
    row = schema.webhook_endpoints.c
    mine = select(func.count()).where(row.api_key_id == api_key_id, row.job_id.is_(None))
    if tx.execute(mine).scalar_one() >= MOST_ENDPOINTS:
        raise TooManyEndpoints(f"An API key can have up to {MOST_ENDPOINTS} webhook endpoints. Delete one first.")
    values = {
        "id": new_id("we"),
        "api_key_id": api_key_id,
        "name": name,
        "url": url,
        "target": target,
        "event_types": list(event_types),
        "secret": secret.encrypted,
        "secret_hint": secret.hint,
        "created_at": now,
        "updated_at": now,
    }
    tx.execute(insert(schema.webhook_endpoints).values(values))
    return get_endpoint(tx, str(values["id"]), api_key_id)


def create_response_endpoint(
    tx: Connection, job_id: str, api_key_id: str, target: WebhookTarget, now: datetime
) -> None:
    """Insert the endpoint that one response named for its own end."""
    tx.execute(
        insert(schema.webhook_endpoints).values(
            id=new_id("we"),
            api_key_id=api_key_id,
            job_id=job_id,
            name="",
            url=target.url,
            target=target.target,
            event_types=list(target.event_types),
            secret=target.secret,
            created_at=now,
            updated_at=now,
        )
    )


def get_endpoint(tx: Connection, endpoint_id: str, api_key_id: str) -> Endpoint:
    """Return an endpoint of an API key.

    Raises:
        EndpointNotFound: it does not exist, or belongs to another key.
    """
    found = tx.execute(_endpoints(api_key_id).where(schema.webhook_endpoints.c.id == endpoint_id)).mappings()
    row = found.one_or_none()
    if row is None:
        raise EndpointNotFound(f"Webhook endpoint with id '{endpoint_id}' not found.", "webhook_endpoint_id")
    return _endpoint_from(row)


def list_endpoints(
    tx: Connection, api_key_id: str, *, limit: int, after: str | None = None, ascending: bool = False
) -> tuple[list[Endpoint], bool]:
    """Return a page of a key's endpoints, newest first, after the id `after`; and whether more follow."""
    row = schema.webhook_endpoints.c
    query = _endpoints(api_key_id).order_by(row.id if ascending else row.id.desc()).limit(limit + 1)
    if after is not None:
        query = query.where(row.id > after if ascending else row.id < after)
    found = [_endpoint_from(each) for each in tx.execute(query).mappings()]
    return found[:limit], len(found) > limit


def change_endpoint(
    tx: Connection, endpoint: Endpoint, changes: Mapping[str, Any], now: datetime, *, enable: bool = False
) -> Endpoint:
    """Change `name`, `url` with `target`, or `event_types`; `enable` also enables a disabled endpoint.

    Raises:
        EndpointNotFound: it was deleted meanwhile.
    """
    values = dict(changes)
    if enable:
        values |= {"failing_since": None, "warned_at": None, "disabled_at": None, "disabled_for": None}
    if values:
        this = update(schema.webhook_endpoints).where(schema.webhook_endpoints.c.id == endpoint.id)
        tx.execute(this.values(updated_at=now, **values))
    if "target" in changes:
        row = schema.webhook_deliveries.c
        pending = update(schema.webhook_deliveries).where(row.endpoint_id == endpoint.id, schema.IS_PENDING)
        tx.execute(pending.values(target=changes["target"]))
    return get_endpoint(tx, endpoint.id, endpoint.api_key_id)


def rotate_secret(
    tx: Connection, endpoint: Endpoint, secret: EncryptedSecret, now: datetime, *, keep_old: bool
) -> Endpoint:
    """Replace the signing secret. With `keep_old`, the old one signs too for another 24 hours.

    Raises:
        EndpointNotFound: it was deleted meanwhile.
    """
    row = schema.webhook_endpoints.c
    former = {"former_secret": row.secret, "former_until": now + OLD_SECRET_LIVES}
    values: dict[str, Any] = former if keep_old else {"former_secret": None, "former_until": None}
    values |= {"secret": secret.encrypted, "secret_hint": secret.hint, "updated_at": now}
    tx.execute(update(schema.webhook_endpoints).where(row.id == endpoint.id).values(values))
    return get_endpoint(tx, endpoint.id, endpoint.api_key_id)


def delete_endpoint(tx: Connection, endpoint: Endpoint) -> None:
    """Delete an endpoint with its log. Its pending deliveries are not sent."""
    tx.execute(delete(schema.webhook_endpoints).where(schema.webhook_endpoints.c.id == endpoint.id))


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


def count_disabled(tx: Connection) -> int:
    """Return the number of disabled endpoints over all API keys, for the operator."""
    row = schema.webhook_endpoints.c
    count: int = tx.execute(select(func.count()).where(row.disabled_at.is_not(None))).scalar_one()
    return count


def _endpoints(api_key_id: str) -> Select[Any]:
    row = schema.webhook_endpoints.c
    return select(schema.webhook_endpoints).where(row.api_key_id == api_key_id, row.job_id.is_(None))


def _endpoint_from(row: RowMapping) -> Endpoint:
    return Endpoint(
        id=row["id"],
        api_key_id=row["api_key_id"],
        name=row["name"],
        url=row["url"],
        target=row["target"],
        event_types=tuple(EventType(each) for each in row["event_types"]),
        secret_hint=row["secret_hint"],
        former_until=row["former_until"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        failing_since=row["failing_since"],
        disabled_at=row["disabled_at"],
        disabled_for=None if row["disabled_for"] is None else DisabledFor(row["disabled_for"]),
    )


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
        made = DeliveryAttempt(each["number"], each["started_at"], each["ended_at"], each["http_status"], _error(each))
        attempts.setdefault(each["delivery_id"], []).append(made)
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
