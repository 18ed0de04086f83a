"""Worker rows: leases are held by workers, not by jobs, so a heartbeat costs one UPDATE for any number of calls."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import sleep
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    Select,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from jobs.ids import new_id
from jobs.job import Attempt, Job
from jobs.store import schema
from jobs.store.column_types import UtcDateTime, any_of
from jobs.store.database import database_now
from jobs.store.row_mapping import attempt_from, job_from

CALLS: Final = "calls"
DELIVERIES: Final = "deliveries"
"""The queues that a worker listens to, as its row names them: their names on the broker are the installation's own."""
ROWS_AT_ONCE = 250
PAUSE_SECONDS = 0.02
FORGET_AFTER = timedelta(days=1)


@dataclass(frozen=True)
class WorkerRow:
    """One worker process; `concurrency` is how many calls it holds at once, `short_of` why it holds no more.

    `unrecorded` is how many calls have ended whose end could not be written down for some seconds. `host_ahead` is by
    how many seconds its host's clock is ahead; None of an older release.
    """

    id: str
    host: str
    pid: int
    concurrency: int
    started_at: datetime
    heartbeat_at: datetime
    draining_at: datetime | None
    ended_at: datetime | None
    queues: str | None
    took_at: datetime | None
    short_of: str | None
    unrecorded: int | None
    host_ahead: float | None

    def takes(self, queue: str) -> bool:
        """Whether it would take a message from this queue now; one of an older release does not say, and counts."""
        listens = self.queues is None or queue in self.queues.split(",")
        return listens and self.draining_at is None and self.concurrency > 0


@dataclass(frozen=True)
class Report:
    """What a worker's heartbeat says of it: the queues that it listens to, its slots, and when it last took a message.

    `queues` are None if it does not know them. `took_ago` is counted by the worker's own monotonic clock; None if it
    has taken none. `short_of` is why it has fewer slots than it is set to, `unrecorded` of how many calls that have
    ended it could not write down the end for some seconds, `host_ahead` by how much its host's clock is ahead.
    """

    queues: Sequence[str] | None
    slots: int
    took_ago: timedelta | None
    short_of: str | None = None
    unrecorded: int = 0
    host_ahead: timedelta = timedelta(0)


def register(tx: Connection, host: str, pid: int, concurrency: int, now: datetime) -> str:
    """Enter a worker under a fresh identity and return it."""
    worker_id = new_id("wrk")
    row = {
        "id": worker_id,
        "host": host,
        "pid": pid,
        "concurrency": concurrency,
        "started_at": now,
        "heartbeat_at": now,
    }
    tx.execute(insert(schema.workers).values(row))
    return worker_id


def beat(
    tx: Connection, worker_id: str, now: datetime, *, draining: bool = False, report: Report | None = None
) -> bool:
    """Say that a worker lives; False when it has been given up meanwhile and must take a new identity."""
    row = schema.workers.c
    living = update(schema.workers).where(row.id == worker_id, row.ended_at.is_(None))
    return tx.execute(living.values(heartbeat_values(now, draining=draining, report=report))).rowcount == 1


def heartbeat_values(now: Any, *, draining: bool, report: Report | None) -> dict[str, Any]:
    """What a heartbeat writes; `now` is a moment, or the database's expression for it."""
    values: dict[str, Any] = {"heartbeat_at": now}
    if report is not None:
        values |= {"concurrency": report.slots, "short_of": report.short_of, "unrecorded": report.unrecorded}
        values["host_ahead"] = report.host_ahead.total_seconds()
    if report is not None and report.queues is not None:
        values["queues"] = ",".join(report.queues)
        values["took_at"] = None if report.took_ago is None else now - report.took_ago
    if draining:
        values["draining_at"] = func.coalesce(schema.workers.c.draining_at, now)
    return values


def leave(tx: Connection, worker_id: str, now: datetime) -> None:
    """Take a worker that holds nothing off the list."""
    row = schema.workers.c
    tx.execute(update(schema.workers).where(row.id == worker_id, row.ended_at.is_(None)).values(ended_at=now))


def mark_silent_dead(tx: Connection, now: datetime, timeout: timedelta, *, was_set: bool = False) -> list[str]:
    """Give up every worker that has been silent for `timeout`, and return them.

    Where the clock `was_set` before that time, whose last beat lies in the future has not beaten since either. One
    whose row another session has locked could not say that it lives, and is not judged.
    """
    row = schema.workers.c
    unheard = row.heartbeat_at < now - timeout
    if was_set:
        unheard = or_(unheard, row.heartbeat_at > now + timeout)
    silent = select(row.id).where(row.ended_at.is_(None), unheard)
    these = update(schema.workers).where(row.id.in_(silent.with_for_update(skip_locked=True, key_share=True)))
    return list(tx.execute(these.values(ended_at=now).returning(row.id)).scalars())


def orphaned(tx: Connection, limit: int, only: str | None = None) -> tuple[list[Job], list[Attempt]]:
    """Jobs still held, and calls still open, under workers that have ended; at most `limit` of each, or one job's.

    The jobs are locked, and what another session has locked is left out. Asked of the rows rather than of the last
    `mark_silent_dead`, so that a rescuer that dies halfway is itself followed by another.
    """
    held, opened = (_HELD_BY_ENDED, _OPEN_OF_ENDED) if only is None else (_HELD_OF_JOB, _OPEN_OF_JOB)
    asked = {"most": limit} | ({} if only is None else {"of_job": only})
    jobs = [job_from(row) for row in tx.execute(held, asked).mappings()]
    attempts = [attempt_from(row) for row in tx.execute(opened, asked).mappings()]
    locked = _locked_by_others(tx, {each.job_id for each in attempts})
    return jobs, [each for each in attempts if each.job_id not in locked]


def orphaned_jobs(tx: Connection, limit: int) -> list[str]:
    """The ids of the jobs of `orphaned`, whoever has locked them."""
    held = tx.execute(_HELD.with_only_columns(schema.jobs.c.id), {"most": limit}).scalars()
    opened = tx.execute(_OPEN_OF_ENDED.with_only_columns(schema.attempts.c.job_id), {"most": limit}).scalars()
    return sorted({*held, *opened})


def _locked_by_others(tx: Connection, job_ids: AbstractSet[str]) -> set[str]:
    """Lock these jobs, and return those that another session has locked. One that was erased has no row to lock."""
    if not job_ids:
        return set()
    there = select(schema.jobs.c.id).where(any_of(schema.jobs.c.id, "ids"))
    mine = tx.execute(there.with_for_update(skip_locked=True, key_share=True), {"ids": sorted(job_ids)}).scalars()
    return {*tx.execute(there, {"ids": sorted(job_ids)}).scalars()} - {*mine}


_ENDED: Final = select(schema.workers.c.id).where(schema.workers.c.ended_at.is_not(None))
_MOST: Final = bindparam("most", type_=Integer)
_HELD: Final = select(schema.jobs).where(schema.IS_HELD, schema.jobs.c.worker_id.in_(_ENDED)).limit(_MOST)
_HELD_BY_ENDED: Final = _HELD.with_for_update(skip_locked=True, key_share=True, of=schema.jobs)
_HELD_OF_JOB: Final = _HELD_BY_ENDED.where(schema.jobs.c.id == bindparam("of_job"))
_OPEN_OF_ENDED: Final = (
    select(schema.attempts)
    .where(schema.attempts.c.ended_at.is_(None), schema.attempts.c.worker_id.in_(_ENDED))
    .limit(_MOST)
)
_OPEN_OF_JOB: Final = _OPEN_OF_ENDED.where(schema.attempts.c.job_id == bindparam("of_job"))


def claims_of(tx: Connection, worker_id: str, claimed_before: datetime) -> set[tuple[str, int]]:
    """What the rows say a worker has held since before a moment, as (job id, attempt)."""
    row = schema.jobs.c
    claimed = (row.status == "in_progress", row.worker_id == worker_id, row.updated_at < claimed_before)
    claims: set[tuple[str, int]] = set()
    for rows in tx.execute(select(row.id, row.attempt).where(*claimed)).partitions(ROWS_AT_ONCE):
        claims.update((job_id, attempt) for job_id, attempt in rows)
        if len(rows) == ROWS_AT_ONCE:
            sleep(PAUSE_SECONDS)  # ten thousand rows at once would hold up all else in the worker for 40 ms and more
    return claims


def live_workers(tx: Connection, now: datetime, timeout: timedelta) -> list[WorkerRow]:
    """Workers that have been heard within `timeout`, longest serving first."""
    return [WorkerRow(**each) for each in tx.execute(_LIVE, {"since": now - timeout}).mappings()]


def shown_shortage(worker: WorkerRow) -> str:
    """What an operator is told of a worker that holds fewer calls than it is set to."""
    return f"worker {worker.pid} on {worker.host} holds {worker.concurrency} calls at most: {worker.short_of}"


def shown_unrecorded(worker: WorkerRow) -> str:
    """What an operator is told of a worker that cannot write down how calls have ended."""
    return f"worker {worker.pid} on {worker.host} cannot record {worker.unrecorded} paid answers; its log says why"


def live_slots(tx: Connection, now: datetime, timeout: timedelta) -> int:
    """How many calls the live workers that still claim can hold at once."""
    total: int | None = tx.execute(_SLOTS, {"since": now - timeout}).scalar()
    return total or 0


_IS_LIVE: Final = (schema.workers.c.ended_at.is_(None), schema.workers.c.heartbeat_at >= bindparam("since"))
_LIVE: Final = select(schema.workers).where(*_IS_LIVE).order_by(schema.workers.c.id)
_SLOTS: Final = select(func.sum(schema.workers.c.concurrency)).where(*_IS_LIVE, schema.workers.c.draining_at.is_(None))


def forget_ended(tx: Connection, now: datetime) -> int:
    """Drop the rows of workers that ended long ago and left nothing behind."""
    row = schema.workers.c
    held = select(schema.jobs.c.worker_id).where(schema.IS_HELD)
    old = delete(schema.workers).where(row.ended_at < now - FORGET_AFTER, row.id.not_in(held))
    return tx.execute(old).rowcount


def take_lease(tx: Connection, name: str, holder: str, now: datetime, length: timedelta) -> bool:
    """Take or renew the lease called `name`; False while another holder's has not run out.

    One that would last far longer than any was taken before the clock was set back, and has run out as well.
    """
    asked = {"of_name": name, "by_holder": holder, "at": now, "until": now + length, "too_late": now + 2 * length}
    return tx.execute(_TAKING[tx.dialect.name], asked).first() is not None


def lease_left(tx: Connection, name: str, holder: str) -> timedelta:
    """How long the lease called `name` is still another's; nothing, or less, while `holder` may take it."""
    asked: dict[str, Any] = {"of_name": name, "not_of": holder}
    if tx.dialect.name == "sqlite":
        asked["at"] = database_now(tx)
    found = tx.execute(_OF_ANOTHER[tx.dialect.name], asked).one_or_none()
    return timedelta(0) if found is None else found.expires_at - found.now


def _of_another(now: ColumnElement[datetime]) -> Select[Any]:
    row = schema.leases.c
    whose = (row.name == bindparam("of_name"), row.holder != bindparam("not_of"))
    return select(row.expires_at, now.label("now")).where(*whose)


_OF_ANOTHER: Final = {
    "postgresql": _of_another(func.clock_timestamp(type_=UtcDateTime)),
    "sqlite": _of_another(bindparam("at", type_=UtcDateTime)),
}


def _taking(dialect: Any) -> Any:
    row = schema.leases.c
    values = {"holder": bindparam("by_holder"), "expires_at": bindparam("until", type_=row.expires_at.type)}
    taking = dialect.insert(schema.leases).values(name=bindparam("of_name"), **values)
    free = or_(
        row.holder == bindparam("by_holder"), row.expires_at <= bindparam("at"), row.expires_at > bindparam("too_late")
    )
    return taking.on_conflict_do_update(index_elements=[row.name], set_=values, where=free).returning(row.name)


_TAKING: Final = {"postgresql": _taking(postgresql), "sqlite": _taking(sqlite)}
