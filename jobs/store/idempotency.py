"""`Idempotency-Key`: a repeated request is answered with the job that the first one submitted.

An idempotency key belongs to one API key and is stored for as long as its response.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select
from sqlalchemy.dialects import postgresql, sqlite

from jobs.errors import DuplicateRequest, IdempotencyConflict
from jobs.job import Job
from jobs.store import schema


@dataclass(frozen=True)
class Idempotency:
    """A client's idempotency key, its API key, and the SHA-256 of the request's body in hex."""

    api_key_id: str
    key: str
    body_sha256: str

    @classmethod
    def of(cls, api_key_id: str, key: str, body: bytes) -> "Idempotency":
        """Return the idempotency key of a request with `body`."""
        return cls(api_key_id, key, hashlib.sha256(body).hexdigest())


def find_earlier(tx: Connection, idempotency: Idempotency) -> str | None:
    """Return the id of the job that an earlier request with this key submitted. None if there is none.

    Raises:
        IdempotencyConflict: the earlier request had another body.
    """
    row = schema.idempotency_keys.c
    query = select(row.job_id, row.body_sha256).where(
        row.api_key_id == idempotency.api_key_id, row.key == idempotency.key
    )
    found = tx.execute(query).one_or_none()
    if found is None:
        return None
    if found.body_sha256 != idempotency.body_sha256:
        raise IdempotencyConflict(
            "This Idempotency-Key was used for a request with another body. Use a new key for a new request.",
            "Idempotency-Key",
        )
    job_id: str = found.job_id
    return job_id


def remember(tx: Connection, bindings: Sequence[tuple[Idempotency, Job]]) -> None:
    """Bind idempotency keys to the jobs that this transaction submits.

    Raises:
        DuplicateRequest: another request has bound one of them. Roll the transaction back.
    """
    dialect = sqlite if tx.dialect.name == "sqlite" else postgresql
    # one lock order everywhere prevents deadlocks
    for idempotency, job in sorted(bindings, key=lambda each: (each[0].api_key_id, each[0].key)):
        binding = dialect.insert(schema.idempotency_keys).values(
            api_key_id=idempotency.api_key_id, key=idempotency.key, body_sha256=idempotency.body_sha256, job_id=job.id
        )
        # RETURNING, because there is no row count of an INSERT on PostgreSQL
        written = tx.execute(binding.on_conflict_do_nothing().returning(schema.idempotency_keys.c.job_id)).first()
        if written is None:
            raise DuplicateRequest(idempotency.key)
