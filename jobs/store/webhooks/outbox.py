"""The webhook outbox: an event and its deliveries are written with the end of a job, then claimed, tried and recorded.

A delivery lives as a job does: its row is the truth, a message is a doorbell, a claim is one guarded UPDATE, `tries`
only grows and is the fence. Each try has a row before it is sent.

Locks are taken in one order, endpoint before delivery, as the erasure of an endpoint takes them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from operator import attrgetter
from typing import Any, Final

from sqlalchemy import (
    Connection,
    Row,
    Select,
    Update,
    and_,
    bindparam,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    update,
)

from jobs.ids import new_id
from jobs.job import Job, WebhookTarget
from jobs.store import schema
from jobs.store.column_types import any_of
from jobs.store.webhooks.claims import Sending
from jobs.store.webhooks.pruning import awaiting
from jobs.webhooks.protocol import (
    DISABLE_AFTER,
    EVENT_OF,
    MAX_FAILURES,
    MOST_LOST_IN_A_ROW,
    WARN_AFTER,
    DeliveryError,
    DeliveryReport,
    DeliveryStatus,
    DisabledFor,
    EventType,
    delay_after,
    envelope,
)

CLAIM_LASTS = timedelta(minutes=2)
"""Far above what a try may take: a claim that is older was never confirmed to its worker, or that one is gone."""


@dataclass(frozen=True)
class Recorded:
    """What a try's record has changed: the delivery's status (None: it was no longer this try's), and its endpoint."""

    status: DeliveryStatus | None
    warned: bool = False
    disabled: DisabledFor | None = None


@dataclass(frozen=True)
class _Health:
    """What a try has shown of its endpoint; `disabled` says why this very try ended it."""

    warned: bool = False
    disabled: DisabledFor | None = None
    is_disabled: bool = False


def keep_target(tx: Connection, job_id: str, api_key_id: str, target: WebhookTarget, now: datetime) -> None:
    """Keep where one request wants its end told."""
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


def forget_targets(tx: Connection, job_ids: Sequence[str]) -> None:
    """Let erased requests' receivers go with them, unless they are still to be told; retention takes them then."""
    row = schema.webhook_endpoints.c
    named = tx.execute(select(row.id).where(any_of(row.job_id, job_ids))).scalars().all()
    told = [each for each in named if not awaiting(tx, schema.webhook_deliveries.c.endpoint_id, [each])]
    if told:
        tx.execute(delete(schema.webhook_endpoints).where(any_of(row.id, told)))


def write_events(tx: Connection, jobs: Sequence[Job], now: datetime) -> list[str]:
    """Write the end of each of `jobs` down for every endpoint that wants to hear of it; the deliveries to ring for.

    For a disabled one the delivery has failed from the start: so its owner sees what it missed, and can recover it.
    """
    if not jobs:
        return []
    whose = {"keys": sorted({job.api_key_id for job in jobs}), "jobs": sorted(job.id for job in jobs)}
    listening = tx.execute(_LISTENING, whose).all()
    pending: list[str] = []
    for job in jobs if listening else ():
        event_type = EVENT_OF[job.status]
        found = [
            each
            for each in listening
            if (each.job_id == job.id or (each.job_id is None and each.api_key_id == job.api_key_id))
            and event_type in each.event_types
        ]
        if found:
            event_id = _insert_event(tx, job.api_key_id, job.id, event_type, now)
            rows = [_delivery_of_event(event_id, each, now) for each in found]
            tx.execute(insert(schema.webhook_deliveries), rows)
            pending += [row["id"] for row in rows if row["status"] is DeliveryStatus.PENDING]
    return pending


def _listening() -> Select[Any]:
    """Endpoints, locked so that one erased at this moment is either told of or not found."""
    row = schema.webhook_endpoints.c
    of_keys = and_(any_of(row.api_key_id, "keys"), row.job_id.is_(None))
    of_jobs = any_of(row.job_id, "jobs")
    columns = (row.id, row.api_key_id, row.job_id, row.target, row.event_types, row.disabled_at)
    return select(*columns).where(or_(of_keys, of_jobs)).with_for_update(read=True, key_share=True)


_LISTENING: Final = _listening()


def _delivery_of_event(event_id: str, endpoint: Row[Any], now: datetime) -> dict[str, Any]:
    missed = {"status": DeliveryStatus.FAILED, "ended_at": now, "error_kind": DeliveryError.ENDPOINT_DISABLED}
    pending = {"status": DeliveryStatus.PENDING, "ended_at": None, "error_kind": None}
    row = _delivery_row(event_id, endpoint.id, endpoint.api_key_id, endpoint.target, now)
    return row | (pending if endpoint.disabled_at is None else missed)


def write_test(
    tx: Connection, endpoint_id: str, api_key_id: str, target: str, event_type: EventType, now: datetime
) -> str:
    """Write a test event for one endpoint; returns the delivery's id. It is tried once."""
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
        "enqueued_at": now,  # by whoever ends the job, right after the commit
    }


def pending_of_jobs(tx: Connection, job_ids: Sequence[str]) -> list[str]:
    """The deliveries that the ends of jobs have made and nobody has taken up."""
    return list(tx.execute(_PENDING_OF_JOBS, {"ids": job_ids}).scalars())


_PENDING_OF_JOBS = select(schema.webhook_deliveries.c.id).where(
    schema.webhook_deliveries.c.event_id.in_(
        select(schema.webhook_events.c.id).where(any_of(schema.webhook_events.c.job_id, "ids"))
    ),
    schema.IS_PENDING,
)


def record_delivery_attempt(
    tx: Connection, sending: Sending, report: DeliveryReport, now: datetime, jitter: float
) -> Recorded:
    """Close a try with what it came to, and decide what comes next, unless it was closed as lost meanwhile."""
    health = _Health()
    failures = sending.failures
    if report.error is DeliveryError.LOST and not _lost_too_often(tx, [sending.id]):
        changes: dict[str, Any] = {"status": DeliveryStatus.PENDING, "available_at": now}
    else:
        if not sending.is_test:
            health = _update_health(tx, sending.endpoint_id, report.error, now, was_failing=sending.was_failing)
        if report.error is None:
            changes = {"status": DeliveryStatus.DELIVERED, "ended_at": now}
        else:
            failures += 1
            delay = delay_after(failures, jitter=jitter, retry_after=report.retry_after)
            changes = _after_failure(health, delay, now)
    changes |= {"worker_id": None, "failures": failures, "http_status": report.http_status, "error_kind": report.error}
    status: DeliveryStatus | None = changes["status"]
    own = {"own_id": sending.id, "own_number": sending.number}
    if tx.execute(_recording(frozenset(changes)), own | {f"new_{name}": to for name, to in changes.items()}).rowcount:
        _close_attempt(tx, sending.id, sending.number, report, now)
    else:
        status = _record_late(tx, sending, report, now)
    if health.disabled is not None:
        _fail_pending(tx, sending.endpoint_id, now)
    return Recorded(status, health.warned, health.disabled)


def put_back(tx: Connection, sending: Sending, now: datetime) -> bool:
    """Undo a claim with which nothing was sent, as if it had never been made; False if it is another's by now."""
    row, made = schema.webhook_deliveries.c, schema.webhook_delivery_attempts.c
    own = (row.id == sending.id, schema.IS_SENDING, row.attempts == sending.number)
    back = {"status": DeliveryStatus.PENDING, "available_at": now, "worker_id": None, "enqueued_at": None}
    if not tx.execute(update(schema.webhook_deliveries).where(*own).values(back)).rowcount:
        return False
    this = (made.delivery_id == sending.id, made.number == sending.number)
    tx.execute(delete(schema.webhook_delivery_attempts).where(*this))
    return True


def _after_failure(health: _Health, delay: timedelta | None, now: datetime) -> dict[str, Any]:
    """What a counted failure makes of a delivery; `delay` is None after the last."""
    if health.is_disabled or delay is None:
        return {"status": DeliveryStatus.FAILED, "ended_at": now}
    return {"status": DeliveryStatus.PENDING, "available_at": now + delay}


def _lost_too_often(tx: Connection, delivery_ids: Sequence[str]) -> set[str]:
    """Which of these deliveries, whose try at hand is lost, had as many lost before it as are not counted."""
    return set(tx.execute(_LOST_TOO_OFTEN, {"ids": delivery_ids}).scalars())


def _lost_before() -> Select[Any]:
    row, made = schema.webhook_deliveries.c, schema.webhook_delivery_attempts.c
    before = (made.number < row.attempts, made.number >= row.attempts - MOST_LOST_IN_A_ROW)
    joined = schema.webhook_deliveries.join(schema.webhook_delivery_attempts, made.delivery_id == row.id)
    lost = (*before, made.error_kind == DeliveryError.LOST)
    found = select(row.id).select_from(joined).where(any_of(row.id, "ids"), *lost)
    return found.group_by(row.id).having(func.count() >= MOST_LOST_IN_A_ROW)


_LOST_TOO_OFTEN: Final = _lost_before()


@cache
def _recording(names: frozenset[str]) -> Update:
    """The statement that closes a try; built once, as building it takes longer than running it."""
    row = schema.webhook_deliveries.c
    own = (row.id == bindparam("own_id"), schema.IS_SENDING, row.attempts == bindparam("own_number"))
    return update(schema.webhook_deliveries).where(*own).values({name: bindparam(f"new_{name}") for name in names})


def _record_late(tx: Connection, sending: Sending, report: DeliveryReport, now: datetime) -> DeliveryStatus | None:
    """Note what a sender says that was given up for dead.

    Its try stays lost, which is why the event goes out once more, and shows what the receiver answered after all. If
    the receiver took it and nobody has sent it again yet, nobody need.
    """
    row, made = schema.webhook_deliveries.c, schema.webhook_delivery_attempts.c
    status = None
    if report.error is None:
        unsent = (row.id == sending.id, schema.IS_PENDING, row.attempts == sending.number)
        lost = update(schema.webhook_deliveries).where(*unsent, row.error_kind == DeliveryError.LOST)
        took: dict[str, Any] = {"status": DeliveryStatus.DELIVERED, "ended_at": now, "enqueued_at": None}
        took |= {"http_status": report.http_status, "error_kind": None}
        status = DeliveryStatus.DELIVERED if tx.execute(lost.values(took)).rowcount else None
    this = (made.delivery_id == sending.id, made.number == sending.number, made.error_kind == DeliveryError.LOST)
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


def _update_health(
    tx: Connection, endpoint_id: str, error: DeliveryError | None, now: datetime, *, was_failing: bool = True
) -> _Health:
    """Keep the endpoint's record: since when it fails, whether that was warned of, and when it is too long."""
    row = schema.webhook_endpoints.c
    this = update(schema.webhook_endpoints).where(row.id == endpoint_id)
    if error is None:
        if was_failing:
            well = this.where(row.disabled_at.is_(None))
            tx.execute(well.values(failing_since=None, warned_at=None))
        return _Health()
    enabled = this.where(row.disabled_at.is_(None))
    since = func.coalesce(row.failing_since, now)
    found = tx.execute(enabled.values(failing_since=since).returning(row.failing_since, row.warned_at)).one_or_none()
    if found is None:
        return _Health(is_disabled=True)
    failing_for = now - found.failing_since
    if error is DeliveryError.GONE or failing_for >= DISABLE_AFTER:
        reason = DisabledFor.GONE if error is DeliveryError.GONE else DisabledFor.FAILING
        tx.execute(enabled.values(disabled_at=now, disabled_for=reason))
        return _Health(disabled=reason, is_disabled=True)
    if failing_for >= WARN_AFTER and found.warned_at is None:
        tx.execute(enabled.values(warned_at=now))
        return _Health(warned=True)
    return _Health()


def _fail_pending(tx: Connection, endpoint_id: str, now: datetime) -> None:
    row = schema.webhook_deliveries.c
    waiting = update(schema.webhook_deliveries).where(row.endpoint_id == endpoint_id, schema.IS_PENDING)
    tx.execute(
        waiting.values(
            status=DeliveryStatus.FAILED, ended_at=now, enqueued_at=None, error_kind=DeliveryError.ENDPOINT_DISABLED
        )
    )


def orphaned_deliveries(tx: Connection, now: datetime) -> list[str]:
    """The ids of what workers that are gone were sending."""
    return [each.id for each in tx.execute(_ORPHANED, {"claimed_before": now - CLAIM_LASTS})]


def rescue_deliveries(tx: Connection, now: datetime, only: str | None = None) -> list[str]:
    """Take back what workers that are gone were sending, and close the tries as lost; returns their ids.

    All of them, or `only` one; what another session has locked is left out.

    Whether the receiver got it nobody can tell, so it goes out again, under the same id: at once, or, after too many
    lost tries in a row, as after any other failure.
    """
    row = schema.webhook_deliveries.c
    query = _ORPHANED.with_for_update(skip_locked=True, key_share=True, of=schema.webhook_deliveries)
    query = query if only is None else query.where(row.id == only)
    left = sorted(tx.execute(query, {"claimed_before": now - CLAIM_LASTS}), key=attrgetter("id"))
    counted = _lost_too_often(tx, [each.id for each in left]) if left else set()
    failing = {each.endpoint_id for each in left if each.id in counted and not each.is_test}
    health = {each: _update_health(tx, each, DeliveryError.LOST, now) for each in sorted(failing)}
    rescued = []
    for each in left:
        changes: dict[str, Any] = {"status": DeliveryStatus.PENDING, "available_at": now, "failures": each.failures}
        if each.id in counted:
            failures = each.failures + 1
            delay = delay_after(failures, jitter=0)
            changes = _after_failure(health.get(each.endpoint_id, _Health()), delay, now) | {"failures": failures}
        own = (row.id == each.id, schema.IS_SENDING, row.attempts == each.attempts)
        back = update(schema.webhook_deliveries).where(*own).values(enqueued_at=now, worker_id=None, **changes)
        if tx.execute(back.values(error_kind=DeliveryError.LOST)).rowcount:  # else its sender was quicker
            _close_attempt(tx, each.id, each.attempts, DeliveryReport(DeliveryError.LOST), now)
            rescued.append(each.id)
    for endpoint_id in (each for each, found in health.items() if found.disabled is not None):
        _fail_pending(tx, endpoint_id, now)
    return rescued


def _orphaned() -> Select[Any]:
    row, worker = schema.webhook_deliveries.c, schema.workers.c
    living = exists().where(worker.id == row.worker_id, worker.ended_at.is_(None))
    left = (row.id, row.attempts, row.failures, row.is_test, row.endpoint_id)
    return select(*left).where(schema.IS_SENDING, or_(~living, row.claimed_at < bindparam("claimed_before")))


_ORPHANED: Final = _orphaned()
