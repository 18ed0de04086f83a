"""The event logs of streamed responses: the events of live output, with their order and numbers.

Events are committed before they are published. So no failure of Redis, a worker or the API can make a client see a
number twice or miss one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Integer, Select, and_, bindparam, func, insert, select

from jobs.event_stream import LIVE_FROM, Event, Progress
from jobs.store import schema
from jobs.store.column_types import any_of
from jobs.store.database import READ_SECONDS, Database
from jobs.store.responses import IDS_PER_QUERY, no_job


@dataclass(frozen=True)
class Chunk:
    """Events of one attempt, the first with `number`, and the progress of the output after them."""

    job_id: str
    attempt: int
    number: int
    events: Sequence[Event]
    progress: Progress

    @property
    def next_number(self) -> int:
        """The number of the event that follows the chunk."""
        return self.number + len(self.events)


@dataclass(frozen=True)
class Log:
    """Chunks of a log, with the job's last change and whether it had ended, read at the same time."""

    chunks: Sequence[Chunk]
    changed_at: datetime
    has_ended: bool


def append(tx: Connection, chunks: Sequence[Chunk], *, wait: bool = False) -> set[str]:
    """Append new events to the logs and return the ids of the jobs whose events are stored now.

    Only events of an attempt that holds its job are stored. If another session has locked a job, `wait` for it;
    otherwise skip the job.
    """
    row, event = schema.jobs.c, schema.stream_events.c
    ids = [chunk.job_id for chunk in chunks]
    held = select(row.id, row.attempt).where(any_of(row.id, ids), schema.IS_HELD)
    locked = held.order_by(row.id).with_for_update(key_share=True, skip_locked=not wait)
    holders: dict[str, int] = dict(tx.execute(locked).all())
    ends = select(event.job_id, func.max(event.next_number)).where(any_of(event.job_id, ids)).group_by(event.job_id)
    stored: dict[str, int] = dict(tx.execute(ends).all())
    kept = [chunk for chunk in chunks if holders.get(chunk.job_id) == chunk.attempt]
    rows = []
    for chunk in kept:
        known = max(
            0, stored.get(chunk.job_id, chunk.number) - chunk.number
        )  # stored before, if the confirmation of a commit was lost
        if known < len(chunk.events):
            rows.append(
                {
                    "job_id": chunk.job_id,
                    "number": chunk.number + known,
                    "next_number": chunk.next_number,
                    "attempt": chunk.attempt,
                    "events": list(chunk.events[known:]),
                    "progress": chunk.progress.to_json(),
                }
            )
    if rows:
        tx.execute(insert(schema.stream_events), rows)
    return {chunk.job_id for chunk in kept}


def read_log(tx: Connection, job_id: str, api_key_id: str, number: int, limit: int) -> Log:
    """Return at most `limit` chunks that hold events from `number` on. The first chunk may begin before it.

    Raises:
        JobNotFound: the key has no such job.
    """
    asked = {"of_job": job_id, "of_key": api_key_id, "from_number": number, "most": limit}
    found = tx.execute(_LOG, asked).mappings().all()
    if not found:
        raise no_job(job_id)
    chunks = [_chunk(each) for each in found if each["job_id"] is not None]
    return Log(chunks, found[0]["updated_at"], has_ended=found[0]["completed_at"] is not None)


def _log() -> Select[Any]:
    """Select the job and its log in one statement, because a caller's retry deletes the log."""
    job, row = schema.jobs.c, schema.stream_events.c
    asked = and_(row.job_id == job.id, row.next_number > bindparam("from_number"))
    columns = (job.updated_at, job.completed_at, *row)
    query = select(*columns).outerjoin_from(schema.jobs, schema.stream_events, asked)
    whose = (job.id == bindparam("of_job"), job.api_key_id == bindparam("of_key"))
    return query.where(*whose).order_by(row.number).limit(bindparam("most", type_=Integer))


_LOG: Final = _log()


def emitted_counts(database: Database, job_ids: Iterable[str]) -> dict[str, float]:
    """Return the number of emitted events of each response; infinity for one that has ended.

    Erased responses are left out.
    """
    ids = list({*job_ids})
    emitted: dict[str, float] = {}
    with database.read(within=READ_SECONDS) as tx:
        for start in range(0, len(ids), IDS_PER_QUERY):
            for job_id, has_started, has_ended, next_number in tx.execute(
                _EMITTED, {"ids": ids[start : start + IDS_PER_QUERY]}
            ):
                opening = LIVE_FROM if has_started else LIVE_FROM - 1
                emitted[job_id] = float("inf") if has_ended else max(opening, next_number or 0)
    return emitted


def _emitted() -> Select[Any]:
    job, row = schema.jobs.c, schema.stream_events.c
    next_number = select(func.max(row.next_number)).where(row.job_id == job.id).scalar_subquery()
    facts = (job.started_at.is_not(None), job.completed_at.is_not(None), next_number)
    return select(job.id, *facts).where(any_of(job.id, "ids"))


_EMITTED: Final = _emitted()


def last_chunk(tx: Connection, job_id: str) -> Chunk | None:
    """Return the last chunk of a job's log. None if the log is empty."""
    found = tx.execute(_LAST, {"of_job": job_id}).mappings().one_or_none()
    return None if found is None else _chunk(found)


_LAST: Final = (
    select(schema.stream_events)
    .where(schema.stream_events.c.job_id == bindparam("of_job"))
    .order_by(schema.stream_events.c.number.desc())
    .limit(1)
)


def _chunk(row: Any) -> Chunk:
    return Chunk(row["job_id"], row["attempt"], row["number"], row["events"], Progress.from_json(row["progress"]))
