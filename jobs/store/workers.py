"""Worker rows and their heartbeat.

A job names the worker that holds it, so one UPDATE of the worker's row keeps any number of its calls alive.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import sleep
from typing import Any, Final

from sqlalchemy import Connection, Integer, bindparam, delete, func, insert, or_, select, true, update

from jobs.clock import elapsed
from jobs.ids import new_id
from jobs.job import Attempt, Job
from jobs.store import schema
from jobs.store.column_types import any_of
from jobs.store.database import Database
from jobs.store.row_mapping import attempt_from, job_from

CALLS: Final = "calls"
DELIVERIES: Final = "deliveries"
"""The queues as a worker's row names them. On the broker their names begin with the installation's namespace."""
ROWS_AT_ONCE = 250
PAUSE_SECONDS = 0.02
PRUNE_AFTER = timedelta(days=1)
_NOW: Final = func.clock_timestamp()
_LOCK_TIMEOUT: Final = select(func.set_config("lock_timeout", "1s", true())).scalar_subquery().is_not(None)
"""Sets the limit in the statement itself, as a condition that is always true."""


@dataclass(frozen=True)
class WorkerRow:
    """One worker process.

    `concurrency` is the number of calls that it can hold at once, `short_of` the reason if that is fewer than
    configured. `unrecorded` is the number of ended calls whose outcome it has failed to record for some seconds,
    `host_ahead` the seconds by which its host's clock is ahead. A worker of an older release reports None.
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
        """Return whether it takes messages from this queue now. One of an older release does not say, and counts."""
        is_subscribed = self.queues is None or queue in self.queues.split(",")
        return is_subscribed and self.draining_at is None and self.concurrency > 0


@dataclass(frozen=True)
class Report:
    """A worker's report of itself, written with its heartbeat.

    `queues` are those it is subscribed to; None if it does not know them. `slots` is the number of calls that it can
    hold at once, `took_ago` the time since it last took a message, by its own monotonic clock; None if it never has.
    The rest is as in `WorkerRow`.
    """

    queues: Sequence[str] | None
    slots: int
    took_ago: timedelta | None
    short_of: str | None = None
    unrecorded: int = 0
    host_ahead: timedelta = timedelta(0)


def register(tx: Connection, host: str, pid: int, concurrency: int, now: datetime) -> str:
    """Insert a row for a worker; return its new id."""
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


def heartbeat(
    tx: Connection, worker_id: str, now: datetime, *, draining: bool = False, report: Report | None = None
) -> bool:
    """Write a worker's heartbeat; return False if it was marked dead meanwhile and must register again."""
    row = schema.workers.c
    alive = update(schema.workers).where(row.id == worker_id, row.ended_at.is_(None))
    return tx.execute(alive.values(_heartbeat_values(now, draining=draining, report=report))).rowcount == 1


def heartbeat_now(
    database: Database, worker_id: str, *, within: float, draining: bool = False, report: Report | None = None
) -> bool:
    """Write a worker's heartbeat as `heartbeat` does, at the database's time, and set our clock by it.

    On PostgreSQL it is one statement, which is a transaction by itself: one round trip instead of four.

    Raises:
        SQLAlchemyError: it failed, or took longer than `within` seconds.
    """
    if database.is_sqlite:
        with database.begin(within=within) as tx:
            return heartbeat(tx, worker_id, database.ask_time(tx), draining=draining, report=report)
    row = schema.workers.c
    values = _heartbeat_values(_NOW, draining=draining, report=report)
    alive = update(schema.workers).where(row.id == worker_id, row.ended_at.is_(None), _LOCK_TIMEOUT)
    asked_at = elapsed()
    with database.read(within=within) as tx:
        moment = tx.execute(alive.values(values).returning(_NOW)).scalar_one_or_none()
    if moment is not None:
        database.clock.learn(moment, asked_at)
    return moment is not None


def _heartbeat_values(now: Any, *, draining: bool, report: Report | None) -> dict[str, Any]:
    """Return the values that a heartbeat writes; `now` is a moment, or the database's expression for it."""
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
    """Mark a worker that holds nothing as ended."""
    row = schema.workers.c
    tx.execute(update(schema.workers).where(row.id == worker_id, row.ended_at.is_(None)).values(ended_at=now))


def mark_silent_dead(tx: Connection, now: datetime, timeout: timedelta, *, was_set: bool = False) -> list[str]:
    """Mark every worker without a heartbeat for `timeout` as dead; return their ids.

    If the clock `was_set` back longer ago than that, a heartbeat that lies in the future is from before and counts as
    none. A worker whose row another session has locked could not write its heartbeat, and is left out.
    """
    row = schema.workers.c
    is_silent = row.heartbeat_at < now - timeout
    if was_set:
        is_silent = or_(is_silent, row.heartbeat_at > now + timeout)
    silent = select(row.id).where(row.ended_at.is_(None), is_silent)
    these = update(schema.workers).where(row.id.in_(silent.with_for_update(skip_locked=True, key_share=True)))
    return list(tx.execute(these.values(ended_at=now).returning(row.id)).scalars())


def orphaned(tx: Connection, limit: int, only: str | None = None) -> tuple[list[Job], list[Attempt]]:
    """Return jobs that ended workers still hold and attempts that they left open; up to `limit` of each, or one job's.

    The jobs are locked, and those that another session has locked are left out. The rows are read rather than the
    result of the last `mark_silent_dead`, so that another rescuer goes on where one has died.
    """
    held, opened = (_HELD_BY_ENDED, _OPEN_OF_ENDED) if only is None else (_HELD_OF_JOB, _OPEN_OF_JOB)
    asked = {"most": limit} | ({} if only is None else {"of_job": only})
    jobs = [job_from(row) for row in tx.execute(held, asked).mappings()]
    attempts = [attempt_from(row) for row in tx.execute(opened, asked).mappings()]
    locked = _locked_by_others(tx, {each.job_id for each in attempts})
    return jobs, [each for each in attempts if each.job_id not in locked]


def orphaned_jobs(tx: Connection, limit: int) -> list[str]:
    """Return the ids of the jobs of `orphaned`, locked or not."""
    held = tx.execute(_HELD.with_only_columns(schema.jobs.c.id), {"most": limit}).scalars()
    opened = tx.execute(_OPEN_OF_ENDED.with_only_columns(schema.attempts.c.job_id), {"most": limit}).scalars()
    return sorted({*held, *opened})


def _locked_by_others(tx: Connection, job_ids: AbstractSet[str]) -> set[str]:
    """Lock these jobs; return those that another session has locked. An erased one has no row to lock."""
    if not job_ids:
        return set()
    existing = select(schema.jobs.c.id).where(any_of(schema.jobs.c.id, "ids"))
    ours = tx.execute(existing.with_for_update(skip_locked=True, key_share=True), {"ids": sorted(job_ids)}).scalars()
    return {*tx.execute(existing, {"ids": sorted(job_ids)}).scalars()} - {*ours}


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
    """Return the jobs that a worker has held since before a moment by their rows, as (job id, attempt number)."""
    row = schema.jobs.c
    claimed = (row.status == "in_progress", row.worker_id == worker_id, row.updated_at < claimed_before)
    claims: set[tuple[str, int]] = set()
    for rows in tx.execute(select(row.id, row.attempt).where(*claimed)).partitions(ROWS_AT_ONCE):
        claims.update((job_id, attempt) for job_id, attempt in rows)
        if len(rows) == ROWS_AT_ONCE:
            sleep(PAUSE_SECONDS)  # ten thousand rows at once would block all greenlets for over 40 ms
    return claims


def live_workers(tx: Connection, now: datetime, timeout: timedelta) -> list[WorkerRow]:
    """Return the workers with a heartbeat within `timeout`, in the order in which they registered."""
    return [WorkerRow(**each) for each in tx.execute(_LIVE, {"since": now - timeout}).mappings()]


def describe_shortage(worker: WorkerRow) -> str:
    """Return the line for an operator about a worker that can hold fewer calls than it is set to."""
    return f"worker {worker.pid} on {worker.host} holds {worker.concurrency} calls at most: {worker.short_of}"


def describe_unrecorded(worker: WorkerRow) -> str:
    """Return the line for an operator about a worker that cannot record outcomes."""
    return f"worker {worker.pid} on {worker.host} cannot record {worker.unrecorded} paid answers; its log says why"


def live_slots(tx: Connection, now: datetime, timeout: timedelta) -> int:
    """Return the number of calls that the live workers can hold at once, without those that are draining."""
    total: int | None = tx.execute(_SLOTS, {"since": now - timeout}).scalar()
    return total or 0


_IS_LIVE: Final = (schema.workers.c.ended_at.is_(None), schema.workers.c.heartbeat_at >= bindparam("since"))
_LIVE: Final = select(schema.workers).where(*_IS_LIVE).order_by(schema.workers.c.id)
_SLOTS: Final = select(func.sum(schema.workers.c.concurrency)).where(*_IS_LIVE, schema.workers.c.draining_at.is_(None))


def prune_workers(tx: Connection, now: datetime) -> int:
    """Delete the rows of workers that ended over `PRUNE_AFTER` ago and hold no job; return their number."""
    row = schema.workers.c
    held = select(schema.jobs.c.worker_id).where(schema.IS_HELD)
    old = delete(schema.workers).where(row.ended_at < now - PRUNE_AFTER, row.id.not_in(held))
    return tx.execute(old).rowcount
