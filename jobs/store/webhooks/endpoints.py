"""Webhook endpoints of an API key.

Every function is scoped by API key, except those for the operator. An endpoint that a single response named has a row
as well, which none of them returns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, delete, func, insert, select, update

from jobs.errors import EndpointNotFound, TooManyEndpoints
from jobs.ids import new_id
from jobs.job import WebhookTarget
from jobs.store import schema
from jobs.webhooks.protocol import OLD_SECRET_LIVES, DisabledFor, EventType

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
