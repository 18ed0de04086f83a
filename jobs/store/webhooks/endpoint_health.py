"""Endpoint health: since when an endpoint has been failing, when its owner is warned, and when it is disabled."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, func, update

from jobs.store import schema
from jobs.webhooks.protocol import DISABLE_AFTER, WARN_AFTER, DeliveryError, DeliveryStatus, DisabledFor


@dataclass(frozen=True)
class EndpointHealth:
    """An endpoint after one delivery attempt. `warned` and `disabled` are set by the attempt that caused them only."""

    warned: bool = False
    disabled: DisabledFor | None = None
    is_disabled: bool = False


def update_health(
    tx: Connection, endpoint_id: str, error: DeliveryError | None, now: datetime, *, was_failing: bool = True
) -> EndpointHealth:
    """Record in the endpoint's row that an attempt succeeded (`error` is None) or failed."""
    row = schema.webhook_endpoints.c
    enabled = update(schema.webhook_endpoints).where(row.id == endpoint_id, row.disabled_at.is_(None))
    if error is None:
        if was_failing:
            tx.execute(enabled.values(failing_since=None, warned_at=None))
        return EndpointHealth()
    since = func.coalesce(row.failing_since, now)
    found = tx.execute(enabled.values(failing_since=since).returning(row.failing_since, row.warned_at)).one_or_none()
    if found is None:
        return EndpointHealth(is_disabled=True)
    failing_for = now - found.failing_since
    if error is DeliveryError.GONE or failing_for >= DISABLE_AFTER:
        reason = DisabledFor.GONE if error is DeliveryError.GONE else DisabledFor.FAILING
        tx.execute(enabled.values(disabled_at=now, disabled_for=reason))
        return EndpointHealth(disabled=reason, is_disabled=True)
    if failing_for >= WARN_AFTER and found.warned_at is None:
        tx.execute(enabled.values(warned_at=now))
        return EndpointHealth(warned=True)
    return EndpointHealth()


def fail_pending_deliveries(tx: Connection, endpoint_id: str, now: datetime) -> None:
    """Fail the pending deliveries of an endpoint that was disabled."""
    row = schema.webhook_deliveries.c
    pending = update(schema.webhook_deliveries).where(row.endpoint_id == endpoint_id, schema.IS_PENDING)
    tx.execute(
        pending.values(
            status=DeliveryStatus.FAILED, ended_at=now, enqueued_at=None, error_kind=DeliveryError.ENDPOINT_DISABLED
        )
    )
