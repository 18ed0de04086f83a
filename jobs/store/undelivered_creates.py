"""Creates whose answer has not been written: what an SDK's own retry may join, so that it buys nothing twice.

The SDKs send a create again by themselves when its connection is lost, with no key to know it by; only
`x-stainless-retry-count` tells. So a create leaves a mark in the transaction that accepts it, which goes once its
answer has been written. A mark is free to be taken when its connection was seen to be lost, or when the process that
held the connection stays silent: whoever was killed can note nothing. What is held by a living process is
somebody's who still waits, and stays his.
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

SILENT_AFTER = timedelta(seconds=5)
JOINABLE_FOR = timedelta(minutes=15)


@dataclass(frozen=True)
class Sender:
    """A request that owes its client an answer: whose it is, the SHA-256 of its body, and where it is served."""

    api_key_id: str
    body_sha256: str
    request_id: str
    process_id: str


@dataclass(frozen=True)
class Process:
    """One API process, whose host's clock is `host_ahead` seconds ahead; None is what an older release does not say."""

    id: str
    host: str | None
    pid: int | None
    host_ahead: float | None


@dataclass(frozen=True)
class UndeliveredCreate:
    """One create of an equal body that is unanswered; `lost` says that nobody waits for it any more.

    `since` is when its request came, `last_heartbeat_at` when the process that holds the connection was last heard.
    """

    job_id: str
    request_id: str
    since: datetime
    last_heartbeat_at: datetime
    lost: bool


def announce_submit(tx: Connection, senders: Collection[Sender]) -> None:
    """Let other processes see that this transaction is about to accept creates of the senders', until it has ended.

    It never waits: nobody takes these locks other than shared.
    """
    if senders and tx.dialect.name != "sqlite":
        tx.execute(_ANNOUNCE, {"numbers": [_lock_number(sender) for sender in senders]})


def submits_under_way(tx: Connection, sender: Sender) -> frozenset[str]:
    """The transactions of any process that are about to accept a create of the same key and body.

    None on SQLite, where whoever asks in a write transaction is alone. The locks of a transaction are seen to go after
    its rows can be seen, so who reads the rows after this misses nothing that is gone from here.
    """
    if tx.dialect.name == "sqlite":
        return frozenset()
    number = _lock_number(sender) % 2**64  # it is shown in two halves without a sign
    found = tx.execute(_ANNOUNCED, {"high": number >> 32, "low": number % 2**32})
    return frozenset(found.scalars())


_ANNOUNCE: Final = text("SELECT pg_advisory_xact_lock_shared(number) FROM unnest(CAST(:numbers AS bigint[])) AS number")
_ANNOUNCED: Final = text(
    "SELECT virtualtransaction FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 AND granted"
    " AND classid = CAST(:high AS oid) AND objid = CAST(:low AS oid)"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


def _lock_number(sender: Sender) -> int:
    """A number of 64 bits with a sign. Where two are alike by chance a retry waits a moment for nothing."""
    digest = hashlib.sha256(f"accept {sender.api_key_id} {sender.body_sha256}".encode()).digest()
    return int.from_bytes(digest[:8], signed=True)


def insert_undelivered_creates(
    tx: Connection, owing: Sequence[tuple[Sender, Job]], now: datetime | None = None
) -> None:
    """Mark creates, in the transaction that accepts them; at the database's moment unless told another."""
    marks = [
        {
            "job_id": job.id,
            "api_key_id": sender.api_key_id,
            "body_sha256": sender.body_sha256,
            "request_id": sender.request_id,
            "process_id": sender.process_id,
            **({} if now is None else {"since": now}),
        }
        for sender, job in owing
    ]
    insert_all(tx, schema.undelivered_creates, marks, clock="since" if now is None else None)


def note_answered(tx: Connection, request_ids: Collection[str]) -> None:
    """The answers to these requests have been written: nothing of theirs is left to join."""
    tx.execute(_ANSWERED, {"ids": request_ids})


_ANSWERED: Final = delete(schema.undelivered_creates).where(any_of(schema.undelivered_creates.c.request_id, "ids"))


def note_lost(tx: Connection, request_ids: Collection[str], now: datetime) -> None:
    """These requests lost their connections before their answers were written."""
    row = schema.undelivered_creates.c
    tx.execute(update(schema.undelivered_creates).where(any_of(row.request_id, request_ids)).values(lost_at=now))


def undelivered_creates_of(
    tx: Connection, sender: Sender, asked_at: datetime, now: datetime
) -> list[UndeliveredCreate]:
    """The unanswered creates of the same key and body, those first that were lost first.

    A process is silent that has not been heard for `SILENT_AFTER` since the sender began to ask, at `asked_at`; what
    was before does not count, as nobody is heard while the database is away. The sender's own is heard now.
    """
    row, process = schema.undelivered_creates.c, schema.api_processes.c
    query = (
        select(row.job_id, row.request_id, row.process_id, row.since, row.lost_at, process.heartbeat_at)
        .outerjoin(schema.api_processes, process.id == row.process_id)
        .where(row.api_key_id == sender.api_key_id, row.body_sha256 == sender.body_sha256)
    )
    marks = []
    for found in tx.execute(query):
        heartbeat_at = now if found.process_id == sender.process_id else found.heartbeat_at
        last_heartbeat_at = max(found.since, heartbeat_at or found.since)
        ended_at = found.lost_at
        if ended_at is None and last_heartbeat_at < asked_at <= now - SILENT_AFTER:
            ended_at = last_heartbeat_at
        if ended_at is None or ended_at > now - JOINABLE_FOR:
            mark = UndeliveredCreate(
                found.job_id, found.request_id, found.since, last_heartbeat_at, lost=ended_at is not None
            )
            marks.append((ended_at or now, found.job_id, mark))
    return [mark for _, _, mark in sorted(marks, key=lambda each: each[:2])]


def take(tx: Connection, mark: UndeliveredCreate, sender: Sender, now: datetime) -> bool:
    """Let `sender` have the job of a lost create; False when another was quicker.

    From here on the mark is the sender's, who may lose his connection in turn.
    """
    row = schema.undelivered_creates.c
    mine = update(schema.undelivered_creates).where(row.job_id == mark.job_id, row.request_id == mark.request_id)
    values = {"request_id": sender.request_id, "process_id": sender.process_id, "since": now, "lost_at": None}
    return tx.execute(mine.values(values)).rowcount == 1


def heartbeat_process(tx: Connection, process: Process, now: datetime) -> None:
    """Say that an API process lives."""
    dialect = sqlite if tx.dialect.name == "sqlite" else postgresql
    told = {"heartbeat_at": now, "host_ahead": process.host_ahead}
    beating = dialect.insert(schema.api_processes).values(id=process.id, host=process.host, pid=process.pid, **told)
    tx.execute(beating.on_conflict_do_update(index_elements=[schema.api_processes.c.id], set_=told))


def live_processes(tx: Connection, now: datetime) -> list[Process]:
    """The API processes that have been heard lately, longest serving first."""
    row = schema.api_processes.c
    living = (
        select(row.id, row.host, row.pid, row.host_ahead).where(row.heartbeat_at >= now - SILENT_AFTER).order_by(row.id)
    )
    return [Process(**each) for each in tx.execute(living).mappings()]


def leave_process(tx: Connection, process_id: str, now: datetime) -> None:
    """Take an API process off the list: what it has not answered by now, it will not."""
    row = schema.undelivered_creates.c
    held = update(schema.undelivered_creates).where(row.process_id == process_id, row.lost_at.is_(None))
    tx.execute(held.values(lost_at=now))
    tx.execute(delete(schema.api_processes).where(schema.api_processes.c.id == process_id))


def prune_undelivered_creates(tx: Connection, now: datetime) -> None:
    """Drop marks that nobody can join any more, and processes that have been silent for as long."""
    row, process = schema.undelivered_creates.c, schema.api_processes.c
    old = now - JOINABLE_FOR
    tx.execute(delete(schema.api_processes).where(process.heartbeat_at < old))
    left = row.process_id.not_in(select(process.id))
    tx.execute(delete(schema.undelivered_creates).where(or_(row.lost_at < old, and_(left, row.since < old))))
