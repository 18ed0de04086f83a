"""API keys: kept as SHA-256, shown once. A key is 256 random bits, so a plain hash cannot be searched."""

import hashlib
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import Connection, RowMapping, Select, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from jobs.ids import new_id
from jobs.store import tables
from jobs.store.columns import among

BOOTSTRAP_ID = "key_bootstrap"


class Scope(StrEnum):
    """What a key may do."""

    RESPONSES_READ = "responses:read"
    RESPONSES_WRITE = "responses:write"
    USAGE_READ = "usage:read"
    WEBHOOKS = "webhooks"


@dataclass(frozen=True)
class ApiKey:
    """A key without its secret."""

    id: str
    name: str
    scopes: frozenset[Scope]
    created_at: datetime
    revoked_at: datetime | None


def digest(secret: str) -> str:
    """What is stored of a key."""
    return hashlib.sha256(secret.encode()).hexdigest()


def generate_secret() -> str:
    """A fresh key, as its holder keeps it."""
    return f"bb_{secrets.token_urlsafe(32)}"


def create_key(tx: Connection, name: str, scopes: Sequence[Scope] | None, now: datetime) -> tuple[ApiKey, str]:
    """Make a key with `scopes` (all when None); the second value is the secret, this once."""
    secret = generate_secret()
    key = ApiKey(new_id("key"), name, frozenset(scopes if scopes is not None else Scope), now, None)
    tx.execute(insert(tables.api_keys).values(_row_of(key, secret)))
    return key, secret


def ensure_bootstrap_key(tx: Connection, secret: str, now: datetime) -> None:
    """Make the operator's key from the settings valid; a changed one replaces its predecessor under the same id."""
    dialect = sqlite if tx.dialect.name == "sqlite" else postgresql
    row = tables.api_keys.c
    key = ApiKey(BOOTSTRAP_ID, "bootstrap", frozenset(Scope), now, None)
    tx.execute(dialect.insert(tables.api_keys).values(_row_of(key, secret)).on_conflict_do_nothing())
    changed = update(tables.api_keys).where(row.id == BOOTSTRAP_ID, row.sha256 != digest(secret))
    tx.execute(changed.values(sha256=digest(secret)))


def list_keys(tx: Connection) -> list[ApiKey]:
    """Every key, oldest first, revoked ones included."""
    query = select(tables.api_keys).order_by(tables.api_keys.c.created_at, tables.api_keys.c.id)
    return [_key_from(row) for row in tx.execute(query).mappings()]


def is_only_key(tx: Connection) -> bool:
    """Whether there is one key at most. Revoked ones count: what they have left at the provider is still there."""
    return len(tx.execute(select(tables.api_keys.c.id).limit(2)).all()) < 2


def revoke_key(tx: Connection, key_id: str, now: datetime) -> ApiKey | None:
    """End a key at once; None when there is no such key. Its jobs go on."""
    row = tables.api_keys.c
    tx.execute(update(tables.api_keys).where(row.id == key_id, row.revoked_at.is_(None)).values(revoked_at=now))
    found = tx.execute(select(tables.api_keys).where(row.id == key_id)).mappings().one_or_none()
    return None if found is None else _key_from(found)


def find_key(tx: Connection, secret: str) -> ApiKey | None:
    """The key that `secret` is; None when unknown or revoked."""
    return find_keys(tx, [digest(secret)]).get(digest(secret))


def find_keys(tx: Connection, digests: Iterable[str]) -> dict[str, ApiKey]:
    """The keys whose secrets have these digests, by them; those that are unknown or revoked are left out."""
    return {each["sha256"]: _key_from(each) for each in tx.execute(_VALID, {"digests": {*digests}}).mappings()}


def _valid() -> Select[Any]:
    row = tables.api_keys.c
    return select(tables.api_keys).where(among(row.sha256, "digests"), row.revoked_at.is_(None))


_VALID: Final = _valid()


def _row_of(key: ApiKey, secret: str) -> dict[str, object]:
    return {
        "id": key.id,
        "name": key.name,
        "sha256": digest(secret),
        "scopes": sorted(key.scopes),
        "created_at": key.created_at,
    }


def _key_from(row: RowMapping) -> ApiKey:
    scopes = frozenset(Scope(scope) for scope in row["scopes"])
    return ApiKey(row["id"], row["name"], scopes, row["created_at"], row["revoked_at"])
