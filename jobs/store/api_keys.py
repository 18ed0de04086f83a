"""API keys, shown once and stored as SHA-256. A key has 256 random bits, so guessing cannot find it from its hash."""

import hashlib
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Final

from sqlalchemy import Connection, RowMapping, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from jobs.errors import SettingsError
from jobs.ids import new_id
from jobs.store import schema
from jobs.store.column_types import any_of

BOOTSTRAP_ID: Final = "key_bootstrap"
BOOTSTRAP_NAME: Final = "bootstrap"
VARIABLE: Final = "BACKBURNER_API_KEY"


class Scope(StrEnum):
    """A permission of a key."""

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
    sha256: str = field(repr=False)
    """The stored hash of the secret, in hex."""


def digest(secret: str) -> str:
    """Return the SHA-256 of a secret in hex, which is all that is stored of it."""
    return hashlib.sha256(secret.encode()).hexdigest()


def generate_secret() -> str:
    """Return a new random secret."""
    return f"bb_{secrets.token_urlsafe(32)}"


def create_key(tx: Connection, name: str, scopes: Sequence[Scope] | None, now: datetime) -> tuple[ApiKey, str]:
    """Create a key with `scopes`, or with all of them if None. Returns the key and its secret, which is not stored."""
    secret = generate_secret()
    granted = frozenset(scopes if scopes is not None else Scope)
    key = ApiKey(new_id("key"), name, granted, now, None, digest(secret))
    tx.execute(insert(schema.api_keys).values(_row_of(key)))
    return key, secret


def ensure_bootstrap_key(tx: Connection, secret: str, now: datetime) -> ApiKey:
    """Return the operator's key with the secret from the settings, which replaces another one under the same id.

    A new secret is valid even if the previous one was revoked. A revoked secret stays revoked, also after others were
    set in between, because it may have leaked.

    Raises:
        SettingsError: another key has this secret, valid or revoked.
    """
    dialect = sqlite if tx.dialect.name == "sqlite" else postgresql
    row = schema.api_keys.c
    wanted = ApiKey(BOOTSTRAP_ID, BOOTSTRAP_NAME, frozenset(Scope), now, None, digest(secret))
    same_secret = select(schema.api_keys).where(row.id == BOOTSTRAP_ID, row.sha256 == wanted.sha256)
    unchanged = tx.execute(same_secret).mappings().one_or_none()
    if unchanged is not None:  # the usual case, which must not wait for a session that has locked the row
        return _key_from(unchanged)
    tx.execute(dialect.insert(schema.api_keys).values(_row_of(wanted)).on_conflict_do_nothing())
    this = select(schema.api_keys).where(row.id == BOOTSTRAP_ID).with_for_update()
    found = tx.execute(this).mappings().one_or_none()
    if found is not None and found["sha256"] == wanted.sha256:  # another process was faster
        return _key_from(found)
    others = select(schema.api_keys).where(row.sha256 == wanted.sha256)
    other = tx.execute(others).mappings().one_or_none()
    if other is not None or found is None:
        raise SettingsError(_taken(other))
    tx.execute(update(schema.api_keys).where(row.id == BOOTSTRAP_ID).values(sha256=wanted.sha256, revoked_at=None))
    before = _key_from(found)
    if before.revoked_at is not None:
        ended = replace(before, id=new_id("key"), name=f"{BOOTSTRAP_NAME} (revoked)")
        tx.execute(insert(schema.api_keys).values(_row_of(ended)))
    return replace(before, sha256=wanted.sha256, revoked_at=None)


def _taken(other: RowMapping | None) -> str:
    whose = "another key" if other is None else f"the key '{other['name']}' ({other['id']})"
    revoked = ", which is revoked" if other is not None and other["revoked_at"] is not None else ""
    return f"{VARIABLE}: it has the secret of {whose}{revoked}. Set one of its own, such as: openssl rand -hex 32"


def list_keys(tx: Connection) -> list[ApiKey]:
    """Return every key, oldest first, including revoked ones."""
    query = select(schema.api_keys).order_by(schema.api_keys.c.created_at, schema.api_keys.c.id)
    return [_key_from(row) for row in tx.execute(query).mappings()]


def is_only_key(tx: Connection) -> bool:
    """Return whether there is at most one key.

    Revoked keys count, because the provider may still store their responses.
    """
    return len(tx.execute(select(schema.api_keys.c.id).limit(2)).all()) < 2


def get_key(tx: Connection, key_id: str) -> ApiKey | None:
    """Return the key with this id, valid or revoked. None if there is none."""
    found = tx.execute(select(schema.api_keys).where(schema.api_keys.c.id == key_id)).mappings().one_or_none()
    return None if found is None else _key_from(found)


def revoke_key(tx: Connection, key_id: str, now: datetime) -> ApiKey | None:
    """Revoke a key at once and return it; its jobs continue. None if there is no such key."""
    row = schema.api_keys.c
    tx.execute(update(schema.api_keys).where(row.id == key_id, row.revoked_at.is_(None)).values(revoked_at=now))
    return get_key(tx, key_id)


def find_key(tx: Connection, secret: str) -> ApiKey | None:
    """Return the key with this secret. None if it is unknown or revoked."""
    return find_keys(tx, [digest(secret)]).get(digest(secret))


def find_keys(tx: Connection, digests: Iterable[str]) -> dict[str, ApiKey]:
    """Return the valid keys by the digests of their secrets."""
    return {each["sha256"]: _key_from(each) for each in tx.execute(_VALID, {"digests": {*digests}}).mappings()}


def find_revoked(tx: Connection, digests: Iterable[str]) -> dict[str, ApiKey]:
    """Return the revoked keys by the digests of their secrets."""
    return {each["sha256"]: _key_from(each) for each in tx.execute(_REVOKED, {"digests": {*digests}}).mappings()}


def changed_keys(tx: Connection, since: datetime) -> list[ApiKey]:
    """Return the keys that were created or revoked after `since`."""
    row = schema.api_keys.c
    query = select(schema.api_keys).where(or_(row.created_at > since, row.revoked_at > since)).order_by(row.id)
    return [_key_from(each) for each in tx.execute(query).mappings()]


_KNOWN: Final = select(schema.api_keys).where(any_of(schema.api_keys.c.sha256, "digests"))
_VALID: Final = _KNOWN.where(schema.api_keys.c.revoked_at.is_(None))
_REVOKED: Final = _KNOWN.where(schema.api_keys.c.revoked_at.is_not(None))


def _row_of(key: ApiKey) -> dict[str, object]:
    return {
        "id": key.id,
        "name": key.name,
        "sha256": key.sha256,
        "scopes": sorted(key.scopes),
        "created_at": key.created_at,
        "revoked_at": key.revoked_at,
    }


def _key_from(row: RowMapping) -> ApiKey:
    scopes = frozenset(Scope(scope) for scope in row["scopes"])
    return ApiKey(row["id"], row["name"], scopes, row["created_at"], row["revoked_at"], row["sha256"])
