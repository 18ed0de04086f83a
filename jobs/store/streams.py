"""The event logs of streamed responses: what live output brought, in the order and under the numbers it was told.

Events are committed before anyone is told of them. So nothing that happens to Redis, a worker or the API can make a
client see a number twice or miss one, and a number is never taken back.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, insert, select

from jobs.sequence import Event, Progress
from jobs.store import tables


@dataclass(frozen=True)
class Chunk:
    """Events of one attempt from `number` on, and what was told of the output after them."""

    job_id: str
    attempt: int
    number: int
    events: Sequence[Event]
    progress: Progress

    @property
    def next_number(self) -> int:
        """The number of the event that follows."""
        return self.number + len(self.events)


def append(tx: Connection, chunks: Sequence[Chunk], *, wait: bool = False) -> set[str]:
    """Put new events behind what is there; returns the jobs whose events are kept now.

    Kept are those of an attempt that holds its job: a log never grows once its job has ended or belongs to another
    attempt. Where somebody moves the job at this very moment, `wait` for what comes of it, else leave it for later:
    who never waits can lock many jobs in any order.
    """
    row, event = tables.jobs.c, tables.stream_events.c
    ids = [chunk.job_id for chunk in chunks]
    held = select(row.id, row.attempt).where(row.id.in_(ids), tables.IS_HELD)
    locked = held.with_for_update(key_share=True, skip_locked=not wait)
    attempts: dict[str, int] = dict(tx.execute(locked).all())
    ends = select(event.job_id, func.max(event.next_number)).where(event.job_id.in_(ids)).group_by(event.job_id)
    stored: dict[str, int] = dict(tx.execute(ends).all())
    kept = [chunk for chunk in chunks if attempts.get(chunk.job_id) == chunk.attempt]
    rows = []
    for chunk in kept:
        known = max(0, stored.get(chunk.job_id, chunk.number) - chunk.number)  # a commit whose confirmation was lost
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
        tx.execute(insert(tables.stream_events), rows)
    return {chunk.job_id for chunk in kept}


def chunks_from(tx: Connection, job_id: str, number: int, limit: int) -> list[Chunk]:
    """The first chunks that hold events from `number` on, at most `limit`; the first may begin before it."""
    row = tables.stream_events.c
    query = select(tables.stream_events).where(row.job_id == job_id, row.next_number > number)
    return [_chunk(each) for each in tx.execute(query.order_by(row.number).limit(limit)).mappings()]


def last_chunk(tx: Connection, job_id: str) -> Chunk | None:
    """The end of the log, if there is one."""
    row = tables.stream_events.c
    query = select(tables.stream_events).where(row.job_id == job_id).order_by(row.number.desc()).limit(1)
    found = tx.execute(query).mappings().one_or_none()
    return None if found is None else _chunk(found)


def _chunk(row: Any) -> Chunk:
    return Chunk(row["job_id"], row["attempt"], row["number"], row["events"], Progress.from_json(row["progress"]))
