"""`submit` and `move`: the only writers of `jobs.status`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import cache
from typing import Any, Final

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
from jobs.lifecycle import TRANSITIONS, Status, Verb
from jobs.store import schema
from jobs.store.bulk import insert_into_all, update_all
from jobs.store.column_types import any_of
from jobs.store.row_mapping import cost_columns, job_from, usage_columns
from jobs.store.webhooks.outbox import forget_targets, keep_target, write_events

NOT_YET: Final[Mapping[str, Any]] = dict.fromkeys(
    (
        *("truncation_applied", "started_at", "completed_at", "worker_id", "provider_response_id", "provider_model"),
        *("incomplete_reason", "error_code", "error_kind", "error_message", "error_param", "error_http_status"),
        *("usage", "cost"),
    )
)
"""What nothing is known of when a job is accepted."""


def submit(tx: Connection, spec: JobSpec, now: datetime, *, enqueued: bool = False) -> Job:
    """Accept one job; as `submit_all`."""
    return submit_all(tx, [(spec, now, enqueued)])[0]


def submit_all(tx: Connection, entries: Sequence[tuple[JobSpec, datetime, bool]]) -> list[Job]:
    """Accept jobs: they are durable once the transaction commits.

    Beside each is its moment, and whether the caller rings its bell right after the commit, so that the dispatcher
    need not.
    """
    rows = [_queued_row(spec, now, enqueued=enqueued) for spec, now, enqueued in entries]
    accepted = [(row["id"], spec) for row, (spec, *_) in zip(rows, entries, strict=True)]
    stored = [{**row, "store": spec.store} for row, (_, spec) in zip(rows, accepted, strict=True)]
    requests = [
        {"job_id": job_id, "settings": spec.settings, "input": spec.input, "credentials": spec.credentials}
        for job_id, spec in accepted
    ]
    labels = [
        {"job_id": job_id, "key": key, "api_key_id": spec.api_key_id, "value": value}
        for job_id, spec in accepted
        for key, value in spec.metadata.items()
    ]
    insert_into_all(tx, {schema.jobs: stored, schema.requests: requests, schema.job_metadata: labels})
    for row, (job_id, spec) in zip(rows, accepted, strict=True):
        if spec.webhook is not None:
            keep_target(tx, job_id, spec.api_key_id, spec.webhook, row["created_at"])
    return [Job(**row, **NOT_YET) for row in rows]


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


def move(tx: Connection, verb: Verb, job: Job, now: datetime, **changes: Any) -> Job:
    """Apply `verb` to the row, provided it is still as `job` describes it; `changes` are fields of `Job`.

    What a status implies is set here: an ended job has its moment and no worker, a queued one neither; what moves no
    longer waits for another; and the end of a background job is an event, on its way to whoever wants to hear of it
    once this transaction commits.

    Raises:
        StaleJob: the row has left the verb's source statuses, a later attempt owns it, or it was parked or unparked.
    """
    [moved], _ = move_all(tx, verb, [(job, changes)], now)
    return moved


def move_all(
    tx: Connection, verb: Verb, moves: Sequence[tuple[Job, Mapping[str, Any]]], now: datetime
) -> tuple[list[Job], list[str]]:
    """`move` for several jobs at once; also the ids of the deliveries to ring for after the commit.

    Raises:
        StaleJob: one of them cannot be moved; the transaction is to be rolled back.
    """
    transition = TRANSITIONS[verb]
    implied: dict[str, Any] = {"status": transition.target, "updated_at": now}
    implied |= {"parked_until": None, "blocked_by": None}
    if transition.target is not Status.IN_PROGRESS:
        implied |= {"worker_id": None, "enqueued_at": None}
        implied |= {"completed_at": now if transition.target.is_terminal else None}
    rows: dict[frozenset[str], list[dict[str, Any]]] = {}
    moved = []
    for job, changes in sorted(moves, key=lambda move: move[0].id):  # locked in one order by everyone
        as_it_was = {"old_id": job.id, "old_attempt": job.attempt, "old_parked_until": job.parked_until}
        values = _columns({**implied, **changes})
        row = as_it_was | {f"new_{name}": value for name, value in values.items()}
        rows.setdefault(frozenset(values), []).append(row)
        moved.append(replace(job, **{**implied, **changes}))
    for names, alike in rows.items():
        if update_all(tx, _moving(verb, names), alike) < len(alike):
            raise StaleJob(moves[0][0].id, verb)
    if transition.target.is_terminal:
        return moved, write_events(tx, [job for job in moved if job.background], now)
    return moved, []


@cache
def _moving(verb: Verb, names: frozenset[str]) -> Update:
    """The statement of one verb; built once, as building it takes longer than running it."""
    row = schema.jobs.c
    guard = (
        row.id == bindparam("old_id", type_=row.id.type),
        row.attempt == bindparam("old_attempt", type_=row.attempt.type),
        row.parked_until.is_not_distinct_from(bindparam("old_parked_until", type_=row.parked_until.type)),
        or_(*(row.status == status for status in sorted(TRANSITIONS[verb].sources))),  # an IN takes no list of rows
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


def cancel_open(
    tx: Connection, api_key_id: str, status: Status, now: datetime, limit: int
) -> tuple[list[Job], list[str]]:
    """Cancel up to `limit` jobs of a key that have this open `status`.

    They are locked first, so that none is stale. Also the ids of the deliveries to ring for, as `move_all`.
    """
    row = schema.jobs.c
    these = (row.api_key_id == api_key_id, row.status == status, row.completed_at.is_(None))
    size = bindparam("size", limit, Integer, literal_execute=True)
    query = select(schema.jobs).where(*these).order_by(row.id).limit(size).with_for_update()
    jobs = [job_from(each) for each in tx.execute(query).mappings()]
    return move_all(tx, Verb.CANCEL, [(job, {}) for job in jobs], now)


def retry_job(tx: Connection, job: Job, now: datetime, deadline_at: datetime) -> Job:
    """Run a failed or cancelled job again under its own id, with all its attempts before it and a new deadline.

    A follow-up waits until its conversation has been looked at anew.

    Raises:
        StaleJob: it is neither failed nor cancelled any more.
    """
    follows = job.previous_response_id is not None
    retried = move(
        tx,
        Verb.RETRY,
        job,
        now,
        failures=0,
        started_at=None,
        available_at=deadline_at if follows else now,
        blocked_by=job.previous_response_id,
        sent_responses=None,
        sent_items=None,
        deadline_at=deadline_at,
        truncation_applied=None,
        incomplete_reason=None,
        error_code=None,
        error_kind=None,
        error_message=None,
        error_param=None,
        error_http_status=None,
    )
    for of_the_last_run in (schema.answers, schema.output_items, schema.stream_events):
        tx.execute(delete(of_the_last_run).where(of_the_last_run.c.job_id == job.id))
    return retried


def erase(tx: Connection, job: Job) -> None:
    """Remove an ended job with its prompt, its answer and every text of its attempts; the usage they booked stays.

    Raises:
        StaleJob: it is open, or has changed since it was read.
    """
    row = schema.jobs.c
    gone = tx.execute(
        delete(schema.jobs).where(row.id == job.id, row.attempt == job.attempt, row.completed_at.is_not(None))
    )
    if gone.rowcount == 0:
        raise StaleJob(job.id, "erase")
    _forget_texts(tx, [job.id])


def erase_ripe(tx: Connection, ripe: ColumnElement[bool], limit: int) -> int:
    """Erase, as `erase` does, up to `limit` ended jobs that are `ripe`, those first that ended first; returns how many.

    What somebody else holds at this moment is left for another time.
    """
    row = schema.jobs.c
    size = bindparam("size", limit, Integer, literal_execute=True)  # else a prepared plan expects a tenth of the table
    oldest = select(row.id).where(row.completed_at.is_not(None), ripe).order_by(row.completed_at).limit(size)
    ids = tx.execute(oldest.with_for_update(skip_locked=True)).scalars().all()  # locked, so that none is revived
    if ids:
        tx.execute(delete(schema.jobs).where(any_of(row.id, ids)))
        _forget_texts(tx, ids)
    return len(ids)


def _forget_texts(tx: Connection, job_ids: Sequence[str]) -> None:
    """What the database doesn't erase by itself together with a job."""
    forget_targets(tx, job_ids)
    attempt = schema.attempts.c
    kept = or_(attempt.error_message.is_not(None), attempt.copy_unwanted == false())
    told = update(schema.attempts).where(any_of(attempt.job_id, job_ids), kept)
    # what the provider keeps of it is to go as well, and needs a call: `worker.maintenance.eraser`
    unwanted = case((attempt.copy_unwanted.is_not(None), true()))
    tx.execute(told.values(error_message=None, copy_unwanted=unwanted))
