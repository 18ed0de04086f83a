"""Claims of deliveries: look up their keys and targets, claim them, and release a claim with which nothing was sent.

The statements are built once: a delivery runs a dozen, and building them took longer than running them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, bindparam, delete, exists, insert, literal, select, update

from jobs.clock import ON_TIME
from jobs.store import schema
from jobs.store.column_types import any_of
from jobs.webhooks.protocol import DeliveryStatus


@dataclass(frozen=True)
class DueDelivery:
    """A due delivery's API key and target; `has_others` is true if other deliveries to the target are due as well."""

    api_key_id: str
    target: str
    has_others: bool


@dataclass(frozen=True)
class ClaimedDelivery:
    """A claimed delivery with all that is needed to send it. The secrets are encrypted."""

    id: str
    number: int
    failures: int
    is_test: bool
    endpoint_id: str
    event_id: str
    payload: str
    was_failing: bool
    url: str = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)


_DELIVERY: Final = schema.webhook_deliveries.c
_OTHER: Final = schema.webhook_deliveries.alias("other")
_ENDPOINT: Final = schema.webhook_endpoints.c
_EVENT: Final = schema.webhook_events.c
_IS_DUE: Final = _DELIVERY.available_at <= bindparam("now")
_DUE: Final = select(
    _DELIVERY.id,
    _DELIVERY.api_key_id,
    _DELIVERY.target,
    exists()
    .where(
        _OTHER.c.status == literal(DeliveryStatus.PENDING, literal_execute=True),
        _OTHER.c.target == _DELIVERY.target,
        _OTHER.c.available_at <= bindparam("now"),
        _OTHER.c.id != _DELIVERY.id,
    )
    .label("has_others"),
).where(any_of(_DELIVERY.id, "ids"), schema.IS_PENDING)
_OWNERS: Final = select(_DELIVERY.id, _DELIVERY.api_key_id).where(any_of(_DELIVERY.id, "ids"))
_LOCK: Final = (
    select(_DELIVERY.id)
    .where(any_of(_DELIVERY.id, "ids"), schema.IS_PENDING, _IS_DUE)
    .with_for_update(skip_locked=True, key_share=True)
)
_CLAIM: Final = (
    update(schema.webhook_deliveries)
    .where(any_of(_DELIVERY.id, "ids"))
    .values(
        status=DeliveryStatus.SENDING,
        worker_id=bindparam("by_worker"),
        claimed_at=bindparam("now"),
        enqueued_at=None,
        attempts=_DELIVERY.attempts + 1,
    )
    .returning(
        *(_DELIVERY.id, _DELIVERY.attempts, _DELIVERY.failures, _DELIVERY.is_test),
        *(_DELIVERY.endpoint_id, _DELIVERY.event_id),
    )
)
_INSERT_ATTEMPTS: Final = insert(schema.webhook_delivery_attempts)
# no join: expecting ids in order, the planner would scan the whole index
_PAYLOADS: Final = select(_EVENT.id, _EVENT.payload).where(any_of(_EVENT.id, "ids"))
_ENDPOINTS: Final = select(
    *(_ENDPOINT.id, _ENDPOINT.url, _ENDPOINT.secret, _ENDPOINT.former_secret, _ENDPOINT.former_until),
    _ENDPOINT.failing_since,
).where(any_of(_ENDPOINT.id, "ids"))


def find_due(tx: Connection, delivery_ids: Sequence[str], now: datetime) -> dict[str, DueDelivery]:
    """Return the pending deliveries among `delivery_ids`, by id. One whose message is stale is missing."""
    found = tx.execute(_DUE, {"ids": delivery_ids, "now": now})
    return {each.id: DueDelivery(each.api_key_id, each.target, each.has_others) for each in found}


def owners_of(tx: Connection, delivery_ids: Sequence[str]) -> dict[str, str]:
    """Return the ids of the API keys that own these deliveries, by delivery id."""
    return {each.id: each.api_key_id for each in tx.execute(_OWNERS, {"ids": delivery_ids})}


def claim_deliveries(
    tx: Connection, delivery_ids: Sequence[str], worker_id: str, now: datetime, *, early: timedelta = ON_TIME
) -> dict[str, ClaimedDelivery]:
    """Claim the due deliveries among `delivery_ids` and insert their attempts' rows; return them by id.

    Missing are those whose message is stale and those that another connection has locked: waiting for several locks
    could be a deadlock. One may be claimed `early`, as the clock of the process that enqueued it may be a little ahead.
    """
    locked = tx.execute(_LOCK, {"ids": delivery_ids, "now": now + early}).scalars().all()
    if not locked:
        return {}
    claimed = tx.execute(_CLAIM, {"ids": locked, "by_worker": worker_id, "now": now}).all()
    attempts = [{"delivery_id": each.id, "number": each.attempts, "started_at": now} for each in claimed]
    tx.execute(_INSERT_ATTEMPTS, attempts)
    events = tx.execute(_PAYLOADS, {"ids": list({each.event_id for each in claimed})})
    payloads = {each.id: each.payload for each in events}
    endpoints = {
        each.id: each for each in tx.execute(_ENDPOINTS, {"ids": list({each.endpoint_id for each in claimed})})
    }
    deliveries = {}
    for each in claimed:
        endpoint = endpoints[each.endpoint_id]
        is_former_valid = endpoint.former_until is not None and endpoint.former_until > now
        secrets = (endpoint.secret, endpoint.former_secret if is_former_valid else None)
        deliveries[each.id] = ClaimedDelivery(
            id=each.id,
            number=each.attempts,
            failures=each.failures,
            is_test=each.is_test,
            endpoint_id=each.endpoint_id,
            event_id=each.event_id,
            payload=payloads[each.event_id],
            was_failing=endpoint.failing_since is not None,
            url=endpoint.url,
            secrets=tuple(secret for secret in secrets if secret is not None),
        )
    return deliveries


def release_delivery(tx: Connection, delivery: ClaimedDelivery, now: datetime) -> bool:
    """Undo a claim with which nothing was sent; return False if the delivery was rescued or claimed again meanwhile."""
    row, attempt = schema.webhook_deliveries.c, schema.webhook_delivery_attempts.c
    own = (row.id == delivery.id, schema.IS_SENDING, row.attempts == delivery.number)
    pending = {"status": DeliveryStatus.PENDING, "available_at": now, "worker_id": None, "enqueued_at": None}
    if not tx.execute(update(schema.webhook_deliveries).where(*own).values(pending)).rowcount:
        return False
    this = (attempt.delivery_id == delivery.id, attempt.number == delivery.number)
    tx.execute(delete(schema.webhook_delivery_attempts).where(*this))
    return True
