"""How a worker takes deliveries up: whom a bell is for, and the claim.

The statements are built once: a delivery has a dozen, and building them took longer than running them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, bindparam, exists, insert, literal, select, update

from jobs.clock import ON_TIME
from jobs.store import schema
from jobs.store.column_types import any_of
from jobs.webhooks.protocol import DeliveryStatus


@dataclass(frozen=True)
class Due:
    """Whose pending delivery it is, whom it is for, and whether others are due there as well."""

    api_key_id: str
    target: str
    has_others: bool


@dataclass(frozen=True)
class Sending:
    """A claimed delivery and all that is needed to send it; the secrets are sealed."""

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
_TARGETS: Final = select(
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
_OPEN_ATTEMPTS: Final = insert(schema.webhook_delivery_attempts)
# not joined: a database that counts on ids in order would rather read along them
_PAYLOADS: Final = select(_EVENT.id, _EVENT.payload).where(any_of(_EVENT.id, "ids"))
_ENDPOINTS: Final = select(
    *(_ENDPOINT.id, _ENDPOINT.url, _ENDPOINT.secret, _ENDPOINT.former_secret, _ENDPOINT.former_until),
    _ENDPOINT.failing_since,
).where(any_of(_ENDPOINT.id, "ids"))


def targets_of(tx: Connection, delivery_ids: Sequence[str], now: datetime) -> dict[str, Due]:
    """Whom pending deliveries are for, by their ids; one whose bell is stale is missing."""
    found = tx.execute(_TARGETS, {"ids": delivery_ids, "now": now})
    return {each.id: Due(each.api_key_id, each.target, each.has_others) for each in found}


def owners_of(tx: Connection, delivery_ids: Sequence[str]) -> dict[str, str]:
    """The ids of the API keys whose deliveries these are, by theirs."""
    return {each.id: each.api_key_id for each in tx.execute(_OWNERS, {"ids": delivery_ids})}


def claim_deliveries(
    tx: Connection, delivery_ids: Sequence[str], worker_id: str, now: datetime, *, early: timedelta = ON_TIME
) -> dict[str, Sending]:
    """Claim those that are due and open the rows of their next tries, by their ids; one whose bell is stale is missing.

    So is one that another connection is just changing: waiting for several of them could be a deadlock. One may come
    `early`: who rang for it may know the time a little less well than we.
    """
    locked = tx.execute(_LOCK, {"ids": delivery_ids, "now": now + early}).scalars().all()
    if not locked:
        return {}
    claimed = tx.execute(_CLAIM, {"ids": locked, "by_worker": worker_id, "now": now}).all()
    tx.execute(
        _OPEN_ATTEMPTS, [{"delivery_id": each.id, "number": each.attempts, "started_at": now} for each in claimed]
    )
    told = tx.execute(_PAYLOADS, {"ids": list({each.event_id for each in claimed})})
    payloads = {each.id: each.payload for each in told}
    hooks = tx.execute(_ENDPOINTS, {"ids": list({each.endpoint_id for each in claimed})})
    found = {each.id: each for each in hooks}
    sendings = {}
    for each in claimed:
        hook = found[each.endpoint_id]
        former = hook.former_secret if hook.former_until is not None and hook.former_until > now else None
        sendings[each.id] = Sending(
            id=each.id,
            number=each.attempts,
            failures=each.failures,
            is_test=each.is_test,
            endpoint_id=each.endpoint_id,
            event_id=each.event_id,
            payload=payloads[each.event_id],
            was_failing=hook.failing_since is not None,
            url=hook.url,
            secrets=tuple(secret for secret in (hook.secret, former) if secret is not None),
        )
    return sendings
