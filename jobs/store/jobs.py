"""Submit, move and erase jobs: the only code that writes `jobs.status`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import cache
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    Update,
    bindparam,
    case,
    delete,
    false,
    or_,
    select,
    true,
    update,
)

from jobs.errors import StaleJob
from jobs.ids import new_id
from jobs.job import Job, JobSpec
from jobs.lifecycle import TRANSITIONS, Actor, Status, Verb
from jobs.store import schema
from jobs.store.bulk import insert_into_all, update_all
from jobs.store.column_types import any_of
from jobs.store.row_mapping import cost_columns, job_from, usage_columns
from jobs.store.webhooks.endpoints import create_response_endpoint
from jobs.store.webhooks.outbox import write_events
from jobs.store.webhooks.pruning import delete_response_endpoints

Move = tuple[Job, Mapping[str, Any]]
"""A job as the caller last read it, and the fields of `Job` to change with its status."""


class Moved(NamedTuple):
    """Jobs after a move, ordered by id, and the ids of the webhook deliveries to enqueue after the commit."""

    jobs: list[Job]
    delivery_ids: list[str]


_UNSET: Final[Mapping[str, Any]] = dict.fromkeys(
    (
        *("truncation_applied", "started_at", "completed_at", "worker_id", "provider_response_id", "provider_model"),
        *("incomplete_reason", "error_code", "error_kind", "error_message", "error_param", "error_http_status"),
        *("usage", "cost"),
    )
)
"""Fields of `Job` that are unknown when a job is submitted."""


def submit(tx: Connection, entries: Sequence[tuple[JobSpec, datetime, bool]]) -> list[Job]:
    """Insert jobs, which are durable once the transaction commits, and return them in the same order.

    Each entry holds the spec, the time of submission, and whether the caller enqueues the job right after the commit.
    The enqueuer skips those.
    """
    rows = [_queued_row(spec, now, enqueued=enqueued) for spec, now, enqueued in entries]
    submitted = [(row["id"], spec) for row, (spec, *_) in zip(rows, entries, strict=True)]
    stored = [{**row, "store": spec.store} for row, (_, spec) in zip(rows, submitted, strict=True)]
    requests = [
        {"job_id": job_id, "settings": spec.settings, "input": spec.input, "credentials": spec.credentials}
        for job_id, spec in submitted
    ]
    labels = [
        {"job_id": job_id, "key": key, "api_key_id": spec.api_key_id, "value": value}
        for job_id, spec in submitted
        for key, value in spec.metadata.items()
    ]
    insert_into_all(tx, {schema.jobs: stored, schema.requests: requests, schema.job_metadata: labels})
    for row, (job_id, spec) in zip(rows, submitted, strict=True):
        if spec.webhook is not None:
            create_response_endpoint(tx, job_id, spec.api_key_id, spec.webhook, row["created_at"])
    return [Job(**row, **_UNSET) for row in rows]


def _queued_row(spec: JobSpec, now: datetime, *, enqueued: bool) -> dict[str, Any]:
    available_at = max(now, spec.run_at) if spec.run_at else now
    if spec.waits:
        available_at = spec.deadline_at
    return {
        "id": new_id("resp"),
        "api_key_id": spec.api_key_id,
        "model": spec.model,
        "status": Status.QUEUED,
        "attempt": 0,
        "failures": 0,
        "max_attempts": spec.max_attempts,
        "on_unknown_outcome": spec.on_unknown_outcome,
        "truncation": spec.truncation,
        "background": spec.background,
        "priority": spec.priority,
        "created_at": now,
        "updated_at": now,
        "available_at": available_at,
        "deadline_at": spec.deadline_at,
        "enqueued_at": now if enqueued and available_at <= now else None,
        "previous_response_id": spec.previous_response_id,
        "blocked_by": spec.previous_response_id if spec.waits else None,
    }


def move(tx: Connection, verb: Verb, moves: Sequence[Move], now: datetime, *, by: Actor) -> Moved:
    """Apply `verb` to the rows of `moves`, provided each is still as its job describes it.

    The fields that a status implies are set here. A job that ends gets `completed_at` and loses its worker; a queued
    one has neither. A moved job is no longer parked and no longer waits for another response. The end of a background
    job is written to the webhook outbox in the same transaction.

    Raises:
        StaleJob: a row has left the verb's source statuses, a later attempt owns it, or it was parked or unparked.
            Roll the transaction back.
        ValueError: `by` may not use the verb.
    """
    transition = TRANSITIONS[verb]
    if by not in transition.actors:
        raise ValueError(f"{by} may not {verb} a job")
    implied: dict[str, Any] = {"status": transition.target, "updated_at": now}
    implied |= {"parked_until": None, "blocked_by": None}
    if transition.target is not Status.IN_PROGRESS:
        implied |= {"worker_id": None, "enqueued_at": None}
        implied |= {"completed_at": now if transition.target.is_terminal else None}
    rows: dict[frozenset[str], list[dict[str, Any]]] = {}
    moved = []
    for job, changes in sorted(moves, key=lambda move: move[0].id):  # one lock order everywhere prevents deadlocks
        expected = {"old_id": job.id, "old_attempt": job.attempt, "old_parked_until": job.parked_until}
        values = _columns({**implied, **changes})
        row = expected | {f"new_{name}": value for name, value in values.items()}
        rows.setdefault(frozenset(values), []).append(row)
        moved.append(replace(job, **{**implied, **changes}))
    for names, same_columns in rows.items():
        if update_all(tx, _update(verb, names), same_columns) < len(same_columns):
            raise StaleJob(moves[0][0].id, verb)
    if transition.target.is_terminal:
        return Moved(moved, write_events(tx, [job for job in moved if job.background], now))
    return Moved(moved, [])


@cache
def _update(verb: Verb, names: frozenset[str]) -> Update:
    """Return the UPDATE of one verb. Cached, because building it takes longer than running it."""
    row = schema.jobs.c
    guard = (
        row.id == bindparam("old_id", type_=row.id.type),
        row.attempt == bindparam("old_attempt", type_=row.attempt.type),
        row.parked_until.is_not_distinct_from(bindparam("old_parked_until", type_=row.parked_until.type)),
        or_(*(row.status == status for status in sorted(TRANSITIONS[verb].sources))),  # `update_all` cannot do `IN`
    )
    return (
        update(schema.jobs)
        .where(*guard)
        .values({name: bindparam(f"new_{name}", type_=row[name].type) for name in sorted(names)})
    )


def _columns(changes: Mapping[str, Any]) -> dict[str, Any]:
    values = dict(changes)
    if "usage" in values:
        values |= usage_columns(values.pop("usage"))
    if "cost" in values:
        values |= cost_columns(values.pop("cost"))
    return values


def cancel_open(tx: Connection, api_key_id: str, status: Status, now: datetime, limit: int) -> Moved:
    """Cancel, for the operator, up to `limit` jobs of a key that have this open `status`.

    The rows are locked first, so none of them can be stale.
    """
    row = schema.jobs.c
    these = (row.api_key_id == api_key_id, row.status == status, row.completed_at.is_(None))
    size = bindparam("size", limit, Integer, literal_execute=True)
    query = select(schema.jobs).where(*these).order_by(row.id).limit(size).with_for_update()
    jobs = [job_from(each) for each in tx.execute(query).mappings()]
    return move(tx, Verb.CANCEL, [(job, {}) for job in jobs], now, by=Actor.OPERATOR)


def retry_job(tx: Connection, job: Job, now: datetime, deadline_at: datetime) -> Job:
    """Run a failed or cancelled job again under its own id, with a new deadline. Its attempts are kept.

    A follow-up is blocked again until its conversation has been checked.

    Raises:
        StaleJob: the job is neither failed nor cancelled any more.
    """
    follows = job.previous_response_id is not None
    changes: dict[str, Any] = {
        "failures": 0,
        "available_at": deadline_at if follows else now,
        "blocked_by": job.previous_response_id,
        "deadline_at": deadline_at,
    }
    changes |= dict.fromkeys(
        (
            *("started_at", "sent_responses", "sent_items", "truncation_applied", "incomplete_reason"),
            *("error_code", "error_kind", "error_message", "error_param", "error_http_status"),
        )
    )
    [retried], _ = move(tx, Verb.RETRY, [(job, changes)], now, by=Actor.CALLER)
    for table in (schema.answers, schema.output_items, schema.stream_events):
        tx.execute(delete(table).where(table.c.job_id == job.id))
    return retried


def erase(tx: Connection, job: Job) -> None:
    """Delete an ended job with its prompt, its answer and the texts of its attempts. Its usage is kept.

    Raises:
        StaleJob: the job is open, or has changed since it was read.
    """
    row = schema.jobs.c
    erased = tx.execute(
        delete(schema.jobs).where(row.id == job.id, row.attempt == job.attempt, row.completed_at.is_not(None))
    )
    if erased.rowcount == 0:
        raise StaleJob(job.id, "erase")
    _erase_texts(tx, [job.id])


def erase_ripe(tx: Connection, ripe: ColumnElement[bool], limit: int) -> int:
    """Erase up to `limit` ended jobs that are `ripe`, oldest end first, and return the number of erased jobs.

    Rows that another session has locked are skipped.
    """
    row = schema.jobs.c
    # a bound parameter would make a prepared plan expect a tenth of the table
    size = bindparam("size", limit, Integer, literal_execute=True)
    oldest = select(row.id).where(row.completed_at.is_not(None), ripe).order_by(row.completed_at).limit(size)
    ids = tx.execute(oldest.with_for_update(skip_locked=True)).scalars().all()  # the lock keeps out a retry
    if ids:
        tx.execute(delete(schema.jobs).where(any_of(row.id, ids)))
        _erase_texts(tx, ids)
    return len(ids)


def _erase_texts(tx: Connection, job_ids: Sequence[str]) -> None:
    """Erase the texts of jobs that no foreign key deletes, and mark the provider's copies for deletion."""
    delete_response_endpoints(tx, job_ids)
    attempt = schema.attempts.c
    has_text_or_copy = or_(attempt.error_message.is_not(None), attempt.copy_unwanted == false())
    erasing = update(schema.attempts).where(any_of(attempt.job_id, job_ids), has_text_or_copy)
    # deleting the provider's copy takes a call, which `worker.maintenance.eraser` makes
    copy_unwanted = case((attempt.copy_unwanted.is_not(None), true()))
    tx.execute(erasing.values(error_message=None, copy_unwanted=copy_unwanted))
