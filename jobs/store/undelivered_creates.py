"""Creates by an SDK whose response has not been written to its client: the table behind `api.sdk_retry`.

The SDKs repeat a create by themselves when its connection is lost. They send no idempotency key; only the header
`x-stainless-retry-count` shows it. So the transaction that submits the job also inserts a row here, and the row is
deleted once the response has been written. A retry may join a row's job if the connection was lost, or if the process
that held the connection is silent (a killed process records nothing). A row whose process is alive belongs to a client
that still waits, and is not joined.
"""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, and_, delete, or_, select, text, update
from sqlalchemy.dialects import postgresql, sqlite

from jobs.job import Job
from jobs.store import schema
from jobs.store.bulk import insert_all
from jobs.store.column_types import any_of

SILENT_AFTER: Final = timedelta(seconds=5)
JOINABLE_FOR: Final = timedelta(minutes=15)


@dataclass(frozen=True)
class UndeliveredCreate:
    """A create whose response is undelivered: its API key, the SHA-256 of its body, and the process that serves it."""

    api_key_id: str
    body_sha256: str
    request_id: str
    process_id: str


@dataclass(frozen=True)
class EarlierCreate:
    """An undelivered create found in the table; `is_lost` means that no client waits for it any more.

    `since` is when its request came, `last_heartbeat_at` the last sign of life of the process that serves it.
    """

    job_id: str
    request_id: str
    since: datetime
    last_heartbeat_at: datetime
    is_lost: bool


@dataclass(frozen=True)
class ApiProcess:
    """One API process. Its host's clock is `host_ahead` seconds ahead; None if an older release wrote the row."""

    id: str
    host: str | None
    pid: int | None
    host_ahead: float | None


def announce_submits(tx: Connection, creates: Collection[UndeliveredCreate]) -> None:
    """Show other processes, until this transaction ends, that it is about to submit jobs for `creates`.

    It never waits: these locks are only taken in shared mode.
    """
    if creates and tx.dialect.name != "sqlite":
        tx.execute(_ANNOUNCE, {"numbers": [_lock_number(create) for create in creates]})


def submits_under_way(tx: Connection, create: UndeliveredCreate) -> frozenset[str]:
    """Return the transactions, of any process, that are about to submit a create with the same API key and body.

    Empty on SQLite, where the caller's own write transaction excludes all others. PostgreSQL releases a transaction's
    locks after its rows have become visible, so a read that follows sees the rows of every transaction gone from here.
    """
    if tx.dialect.name == "sqlite":
        return frozenset()
    number = _lock_number(create) % 2**64  # pg_locks shows it as two unsigned halves
    found = tx.execute(_ANNOUNCED, {"high": number >> 32, "low": number % 2**32})
    return frozenset(found.scalars())


_ANNOUNCE: Final = text("SELECT pg_advisory_xact_lock_shared(number) FROM unnest(CAST(:numbers AS bigint[])) AS number")
_ANNOUNCED: Final = text(
    "SELECT virtualtransaction FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 AND granted"
    " AND classid = CAST(:high AS oid) AND objid = CAST(:low AS oid)"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


def _lock_number(create: UndeliveredCreate) -> int:
    """Return a signed 64-bit number. A collision only makes a retry wait a moment for nothing."""
    digest = hashlib.sha256(f"submit {create.api_key_id} {create.body_sha256}".encode()).digest()
    return int.from_bytes(digest[:8], signed=True)


def insert_undelivered_creates(
    tx: Connection, submitted: Sequence[tuple[UndeliveredCreate, Job]], now: datetime | None = None
) -> None:
    """Insert creates in the transaction that submits their jobs, at `now` or else at the database's time."""
    rows = [
        {
            "job_id": job.id,
            "api_key_id": create.api_key_id,
            "body_sha256": create.body_sha256,
            "request_id": create.request_id,
            "process_id": create.process_id,
            **({} if now is None else {"since": now}),
        }
        for create, job in submitted
    ]
    insert_all(tx, schema.undelivered_creates, rows, clock="since" if now is None else None)


def delete_delivered(tx: Connection, request_ids: Collection[str]) -> None:
    """Delete the creates of these requests: their responses have been written, and nothing is left to join."""
    tx.execute(_DELETE_DELIVERED, {"ids": request_ids})


_DELETE_DELIVERED: Final = delete(schema.undelivered_creates).where(
    any_of(schema.undelivered_creates.c.request_id, "ids")
)


def mark_lost(tx: Connection, request_ids: Collection[str], now: datetime) -> None:
    """Record that these requests lost their connections before their responses were written."""
    row = schema.undelivered_creates.c
    tx.execute(update(schema.undelivered_creates).where(any_of(row.request_id, request_ids)).values(lost_at=now))


def find_earlier_creates(
    tx: Connection, retry: UndeliveredCreate, asked_at: datetime, now: datetime
) -> list[EarlierCreate]:
    """Return the undelivered creates with the API key and body of `retry`, in the order in which they were lost.

    A process counts as silent after `SILENT_AFTER` without a heartbeat since `asked_at`, when the retry first looked.
    Silence before that does not count, as no heartbeat is written while the database is away. The process that serves
    the retry counts as alive.
    """
    row, process = schema.undelivered_creates.c, schema.api_processes.c
    query = (
        select(row.job_id, row.request_id, row.process_id, row.since, row.lost_at, process.heartbeat_at)
        .outerjoin(schema.api_processes, process.id == row.process_id)
        .where(row.api_key_id == retry.api_key_id, row.body_sha256 == retry.body_sha256)
    )
    earlier = []
    for found in tx.execute(query):
        heartbeat_at = now if found.process_id == retry.process_id else found.heartbeat_at
        last_heartbeat_at = max(found.since, heartbeat_at or found.since)
        lost_at = found.lost_at
        if lost_at is None and last_heartbeat_at < asked_at <= now - SILENT_AFTER:
            lost_at = last_heartbeat_at
        if lost_at is None or lost_at > now - JOINABLE_FOR:
            create = EarlierCreate(
                found.job_id, found.request_id, found.since, last_heartbeat_at, is_lost=lost_at is not None
            )
            earlier.append((lost_at or now, found.job_id, create))
    return [create for _, _, create in sorted(earlier, key=lambda each: each[:2])]


def take_over(tx: Connection, earlier: EarlierCreate, retry: UndeliveredCreate, now: datetime) -> bool:
    """Give the job of a lost create to `retry`; return False if another retry was faster.

    The row then belongs to the retry, whose connection may be lost in turn.
    """
    row = schema.undelivered_creates.c
    query = update(schema.undelivered_creates).where(row.job_id == earlier.job_id, row.request_id == earlier.request_id)
    values = {"request_id": retry.request_id, "process_id": retry.process_id, "since": now, "lost_at": None}
    return tx.execute(query.values(values)).rowcount == 1


def record_heartbeat(tx: Connection, process: ApiProcess, now: datetime) -> None:
    """Record that an API process is alive."""
    dialect = sqlite if tx.dialect.name == "sqlite" else postgresql
    values = {"heartbeat_at": now, "host_ahead": process.host_ahead}
    row = dialect.insert(schema.api_processes).values(id=process.id, host=process.host, pid=process.pid, **values)
    tx.execute(row.on_conflict_do_update(index_elements=[schema.api_processes.c.id], set_=values))


def live_processes(tx: Connection, now: datetime) -> list[ApiProcess]:
    """Return the API processes with a recent heartbeat, the longest running first."""
    row = schema.api_processes.c
    living = (
        select(row.id, row.host, row.pid, row.host_ahead).where(row.heartbeat_at >= now - SILENT_AFTER).order_by(row.id)
    )
    return [ApiProcess(**each) for each in tx.execute(living).mappings()]


def remove_process(tx: Connection, process_id: str, now: datetime) -> None:
    """Remove an API process that stops, and mark as lost every create that it has not delivered."""
    row = schema.undelivered_creates.c
    undelivered = update(schema.undelivered_creates).where(row.process_id == process_id, row.lost_at.is_(None))
    tx.execute(undelivered.values(lost_at=now))
    tx.execute(delete(schema.api_processes).where(schema.api_processes.c.id == process_id))


def prune_undelivered_creates(tx: Connection, now: datetime) -> None:
    """Delete creates that can no longer be joined, and processes that have been silent for as long."""
    row, process = schema.undelivered_creates.c, schema.api_processes.c
    old = now - JOINABLE_FOR
    tx.execute(delete(schema.api_processes).where(process.heartbeat_at < old))
    orphaned = row.process_id.not_in(select(process.id))
    tx.execute(delete(schema.undelivered_creates).where(or_(row.lost_at < old, and_(orphaned, row.since < old))))
