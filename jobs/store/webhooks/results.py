"""Results of delivery attempts: recorded by the sender, or by a rescue when the sender's worker is gone."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from operator import attrgetter
from typing import Any, Final

from sqlalchemy import Connection, Select, Update, bindparam, exists, func, or_, select, update

from jobs.store import schema
from jobs.store.column_types import any_of
from jobs.store.webhooks.claims import ClaimedDelivery
from jobs.store.webhooks.endpoint_health import EndpointHealth, fail_pending_deliveries, update_health
from jobs.webhooks.protocol import (
    MOST_LOST_IN_A_ROW,
    DeliveryError,
    DeliveryReport,
    DeliveryStatus,
    DisabledFor,
    delay_after,
)

CLAIM_TIMEOUT = timedelta(minutes=2)
"""Age after which a claim is orphaned: far more than an attempt may take, so its worker is gone or never got it."""


@dataclass(frozen=True)
class RecordedDelivery:
    """Changes made by recording an attempt. `status` is None if the delivery no longer belonged to this attempt."""

    status: DeliveryStatus | None
    warned: bool = False
    disabled: DisabledFor | None = None


def record_delivery_attempt(
    tx: Connection, delivery: ClaimedDelivery, report: DeliveryReport, now: datetime, jitter: float
) -> RecordedDelivery:
    """Close an attempt with its result and decide the next step, unless a rescue has closed it as lost meanwhile."""
    health = EndpointHealth()
    failures = delivery.failures
    if report.error is DeliveryError.LOST and not _lost_too_often(tx, [delivery.id]):
        changes: dict[str, Any] = {"status": DeliveryStatus.PENDING, "available_at": now}
    else:
        if not delivery.is_test:
            health = update_health(tx, delivery.endpoint_id, report.error, now, was_failing=delivery.was_failing)
        if report.error is None:
            changes = {"status": DeliveryStatus.DELIVERED, "ended_at": now}
        else:
            failures += 1
            delay = delay_after(failures, jitter=jitter, retry_after=report.retry_after)
            changes = _after_failure(health, delay, now)
    changes |= {"worker_id": None, "failures": failures, "http_status": report.http_status, "error_kind": report.error}
    status: DeliveryStatus | None = changes["status"]
    own = {"own_id": delivery.id, "own_number": delivery.number}
    if tx.execute(_recording(frozenset(changes)), own | {f"new_{name}": to for name, to in changes.items()}).rowcount:
        _close_attempt(tx, delivery.id, delivery.number, report, now)
    else:
        status = _record_late(tx, delivery, report, now)
    if health.disabled is not None:
        fail_pending_deliveries(tx, delivery.endpoint_id, now)
    return RecordedDelivery(status, health.warned, health.disabled)


def _after_failure(health: EndpointHealth, delay: timedelta | None, now: datetime) -> dict[str, Any]:
    """Return the changes to a delivery after a counted failure; `delay` is None after the last."""
    if health.is_disabled or delay is None:
        return {"status": DeliveryStatus.FAILED, "ended_at": now}
    return {"status": DeliveryStatus.PENDING, "available_at": now + delay}


def _lost_too_often(tx: Connection, delivery_ids: Sequence[str]) -> set[str]:
    """Return those whose current attempt is lost after `MOST_LOST_IN_A_ROW` lost ones, so that it counts as failed."""
    return set(tx.execute(_LOST_TOO_OFTEN, {"ids": delivery_ids}).scalars())


def _lost_before() -> Select[Any]:
    row, attempt = schema.webhook_deliveries.c, schema.webhook_delivery_attempts.c
    before = (attempt.number < row.attempts, attempt.number >= row.attempts - MOST_LOST_IN_A_ROW)
    joined = schema.webhook_deliveries.join(schema.webhook_delivery_attempts, attempt.delivery_id == row.id)
    lost = (*before, attempt.error_kind == DeliveryError.LOST)
    found = select(row.id).select_from(joined).where(any_of(row.id, "ids"), *lost)
    return found.group_by(row.id).having(func.count() >= MOST_LOST_IN_A_ROW)


_LOST_TOO_OFTEN: Final = _lost_before()


@cache
def _recording(names: frozenset[str]) -> Update:
    """Return the statement that records an attempt. It is built once, as building it takes longer than running it."""
    row = schema.webhook_deliveries.c
    own = (row.id == bindparam("own_id"), schema.IS_SENDING, row.attempts == bindparam("own_number"))
    return update(schema.webhook_deliveries).where(*own).values({name: bindparam(f"new_{name}") for name in names})


def _record_late(
    tx: Connection, delivery: ClaimedDelivery, report: DeliveryReport, now: datetime
) -> DeliveryStatus | None:
    """Record a report that arrives after its attempt was closed as lost.

    The attempt stays lost, as that is why the event is sent again, but gets the endpoint's HTTP status. If the endpoint
    took the event and the next attempt has not begun, the delivery ends as delivered.
    """
    row, attempt = schema.webhook_deliveries.c, schema.webhook_delivery_attempts.c
    status = None
    if report.error is None:
        unsent = (row.id == delivery.id, schema.IS_PENDING, row.attempts == delivery.number)
        lost = update(schema.webhook_deliveries).where(*unsent, row.error_kind == DeliveryError.LOST)
        changes: dict[str, Any] = {"status": DeliveryStatus.DELIVERED, "ended_at": now, "enqueued_at": None}
        changes |= {"http_status": report.http_status, "error_kind": None}
        status = DeliveryStatus.DELIVERED if tx.execute(lost.values(changes)).rowcount else None
    this = (
        attempt.delivery_id == delivery.id,
        attempt.number == delivery.number,
        attempt.error_kind == DeliveryError.LOST,
    )
    tx.execute(update(schema.webhook_delivery_attempts).where(*this).values(http_status=report.http_status))
    return status


def _close_attempt(tx: Connection, delivery_id: str, number: int, report: DeliveryReport, now: datetime) -> None:
    changes = {"ended_at": now, "http_status": report.http_status, "error_kind": report.error}
    own = {"own_id": delivery_id, "own_number": number}
    tx.execute(_CLOSING, own | {f"new_{name}": to for name, to in changes.items()})


_CLOSING = (
    update(schema.webhook_delivery_attempts)
    .where(
        schema.webhook_delivery_attempts.c.delivery_id == bindparam("own_id"),
        schema.webhook_delivery_attempts.c.number == bindparam("own_number"),
    )
    .values({name: bindparam(f"new_{name}") for name in ("ended_at", "http_status", "error_kind")})
)


def orphaned_deliveries(tx: Connection, now: datetime) -> list[str]:
    """Return the ids of the deliveries claimed by workers that are gone."""
    return [each.id for each in tx.execute(_ORPHANED, {"claimed_before": now - CLAIM_TIMEOUT})]


def rescue_deliveries(tx: Connection, now: datetime, only: str | None = None) -> list[str]:
    """Take back the deliveries claimed by workers that are gone, or `only` one, and close their attempts as lost.

    Deliveries that another session has locked are left out. It is unknown whether the endpoint got the event, so it is
    sent again under the same id: at once, or, after too many lost attempts in a row, as after any other failure.

    Returns:
        The ids of the deliveries that were taken back.
    """
    row = schema.webhook_deliveries.c
    query = _ORPHANED.with_for_update(skip_locked=True, key_share=True, of=schema.webhook_deliveries)
    query = query if only is None else query.where(row.id == only)
    orphans = sorted(tx.execute(query, {"claimed_before": now - CLAIM_TIMEOUT}), key=attrgetter("id"))
    counted = _lost_too_often(tx, [each.id for each in orphans]) if orphans else set()
    failing = {each.endpoint_id for each in orphans if each.id in counted and not each.is_test}
    health = {each: update_health(tx, each, DeliveryError.LOST, now) for each in sorted(failing)}
    rescued = []
    for each in orphans:
        changes: dict[str, Any] = {"status": DeliveryStatus.PENDING, "available_at": now, "failures": each.failures}
        if each.id in counted:
            failures = each.failures + 1
            delay = delay_after(failures, jitter=0)
            changes = _after_failure(health.get(each.endpoint_id, EndpointHealth()), delay, now)
            changes |= {"failures": failures}
        own = (row.id == each.id, schema.IS_SENDING, row.attempts == each.attempts)
        back = update(schema.webhook_deliveries).where(*own).values(enqueued_at=now, worker_id=None, **changes)
        if tx.execute(back.values(error_kind=DeliveryError.LOST)).rowcount:  # else its sender has just recorded it
            _close_attempt(tx, each.id, each.attempts, DeliveryReport(DeliveryError.LOST), now)
            rescued.append(each.id)
    for endpoint_id in (each for each, found in health.items() if found.disabled is not None):
        fail_pending_deliveries(tx, endpoint_id, now)
    return rescued


def _orphaned() -> Select[Any]:
    row, worker = schema.webhook_deliveries.c, schema.workers.c
    live = exists().where(worker.id == row.worker_id, worker.ended_at.is_(None))
    columns = (row.id, row.attempts, row.failures, row.is_test, row.endpoint_id)
    return select(*columns).where(schema.IS_SENDING, or_(~live, row.claimed_at < bindparam("claimed_before")))


_ORPHANED: Final = _orphaned()
