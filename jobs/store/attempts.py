"""The ledger of calls: a row is committed before its call is sent, and closed with the call's outcome."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Update,
    and_,
    bindparam,
    exists,
    func,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from jobs import text_limits
from jobs.clock import ON_TIME
from jobs.errors import Billed, ErrorKind, Failure, StaleJob
from jobs.job import Answer, Attempt, CallReport, Job, Outcome
from jobs.lifecycle import Actor, Verb
from jobs.retry import RULES
from jobs.store import schema
from jobs.store.attempt_bodies import store_body
from jobs.store.billing import add_to_job, billed_by, booked_by_another, lock_job, reconciled_microusd
from jobs.store.bulk import insert_all, update_all
from jobs.store.column_types import any_of
from jobs.store.conversations import block_again, missing_link
from jobs.store.jobs import move
from jobs.store.output_items import store_items
from jobs.store.row_mapping import attempt_from, cost_columns, job_from, usage_columns


def begin_attempts(
    tx: Connection,
    job_ids: Sequence[str],
    worker_id: str,
    now: datetime,
    most: int | None = None,
    *,
    early: timedelta = ON_TIME,
) -> list[tuple[Job, Attempt]]:
    """Claim due jobs for `worker_id`, at most `most` of them, and insert the row of each one's next call.

    Left out are jobs whose message was stale: those that are gone, claimed, ended or not yet due. A worker that was
    marked dead and does not know it yet claims nothing, as its call would count as lost while it runs. A follow-up
    whose conversation has been erased in part is blocked again, so that `follow_ups` fails it.

    A job may be claimed `early` by that much, because the clock of the process that enqueued it may differ from ours.

    Raises:
        StaleJob: another worker claimed one of them at the same time. Roll the transaction back.
    """
    found = [job_from(each) for each in tx.execute(_CLAIMABLE, {"ids": job_ids, "worker": worker_id}).mappings()]
    due = [job for job in found if job.available_at - early <= now < job.deadline_at]
    resumes = {job.id: resumable_response(tx, job) if job.attempt else None for job in due}
    ready = [job for job in due if _can_continue(tx, job, resumes[job.id])][:most]
    if not ready:
        return []
    moves = [
        (job, {"attempt": job.attempt + 1, "worker_id": worker_id, "started_at": job.started_at or now})
        for job in ready
    ]
    claimed, _ = move(tx, Verb.CLAIM, moves, now, by=Actor.WORKER)
    begun = [(job, _attempt_of(job, worker_id, now, resumes[job.id])) for job in claimed]
    insert_all(tx, schema.attempts, [_opening_row(attempt) for _, attempt in begun])
    return begun


def _claimable() -> Select[Any]:
    row, worker = schema.jobs.c, schema.workers.c
    is_listed = exists().where(worker.id == bindparam("worker"), worker.ended_at.is_(None))
    return select(schema.jobs).where(any_of(row.id, "ids"), schema.IS_QUEUED, is_listed)


_CLAIMABLE: Final = _claimable()


def _can_continue(tx: Connection, job: Job, resumes: str | None) -> bool:
    """Return whether the conversation that a job continues still exists. Block the job if it does not.

    A job that resumes a call has sent its conversation already.
    """
    previous = job.previous_response_id
    if previous is None or resumes is not None or missing_link(tx, previous, job.api_key_id) is None:
        return True
    block_again(tx, job)
    return False


def _attempt_of(job: Job, worker_id: str, now: datetime, resumes: str | None) -> Attempt:
    return Attempt(
        job_id=job.id,
        number=job.attempt,
        api_key_id=job.api_key_id,
        model=job.model,
        worker_id=worker_id,
        started_at=now,
        ended_at=None,
        outcome=None,
        billed=Billed.UNKNOWN,
        truncation=job.truncation_applied or job.truncation,
        resumes=resumes,
        error_kind=None,
        error_message=None,
        http_status=None,
        provider_request_id=None,
        provider_response_id=resumes,
        usage=None,
        cost=None,
    )


def _opening_row(attempt: Attempt) -> dict[str, Any]:
    return {
        "job_id": attempt.job_id,
        "number": attempt.number,
        "api_key_id": attempt.api_key_id,
        "model": attempt.model,
        "worker_id": attempt.worker_id,
        "started_at": attempt.started_at,
        "billed": attempt.billed,
        "truncation": attempt.truncation,
        "resumes": attempt.resumes,
        "provider_response_id": attempt.provider_response_id,
    }


class CallRequest(NamedTuple):
    """The request of a call: the client's body without its input, the input, and the encrypted credentials.

    The first two show credentials as `***`.
    """

    settings: dict[str, Any]
    input: Any
    credentials: str | None


def requests_of(tx: Connection, attempts: Sequence[Attempt]) -> list[CallRequest | None]:
    """Return the request of each call, in the order of `attempts`; None for a call that no longer holds its job."""
    found = tx.execute(_REQUESTS, {"ids": [attempt.job_id for attempt in attempts]})
    requests = {(job_id, number): CallRequest(*asked) for job_id, number, *asked in found}
    return [requests.get((attempt.job_id, attempt.number)) for attempt in attempts]


def _requests() -> Select[Any]:
    job, request = schema.jobs.c, schema.requests.c
    held = (any_of(job.id, "ids"), schema.IS_HELD)
    asked = select(job.id, job.attempt, request.settings, request.input, request.credentials)
    return asked.join_from(schema.jobs, schema.requests).where(*held)


_REQUESTS: Final = _requests()


def resumable_response(tx: Connection, job: Job) -> str | None:
    """Return the provider's id of the response that the job's last call started and nobody has fetched yet.

    Only calls in the provider's background mode have one, as only these call `note_response`.
    """
    row = schema.attempts.c
    unfetched = or_(row.ended_at.is_(None), row.outcome.in_((Outcome.LOST, Outcome.RELEASED)))
    query = select(row.provider_response_id).where(row.job_id == job.id, row.number == job.attempt, unfetched)
    found: str | None = tx.execute(query).scalar()
    return found


def unwanted_responses(tx: Connection, since: datetime, limit: int) -> list[tuple[str, Attempt]]:
    """Return at most `limit` responses, oldest first, that may still run at the provider for an ended or erased job.

    They belong to the last call of their job, which was lost or released after `since`, and were never fetched.
    """
    query = select(schema.attempts).where(*_left_running(since), ~_job_is_open())
    return _responses(tx, query.order_by(schema.attempts.c.ended_at).limit(limit))


def unwanted_copies(
    tx: Connection, since: datetime, unfetched_since: datetime, limit: int
) -> list[tuple[str, Attempt]]:
    """Return at most `limit` responses, oldest first, that the provider stores and should not.

    Their calls ended after `since`. Left out are responses of open jobs, as the next call may fetch them, and those
    that `unwanted_responses` returns, as they have to be cancelled first.
    """
    row = schema.attempts.c
    unwanted = (row.copy_unwanted == true(), row.ended_at > since)
    query = select(schema.attempts).where(*unwanted, ~_job_is_open(), ~and_(*_left_running(unfetched_since)))
    return _responses(tx, query.order_by(row.ended_at).limit(limit))


def mark_copy_deleted(tx: Connection, attempt: Attempt) -> None:
    """Record that the provider has deleted its copy of this call's response, or cannot delete it."""
    row = schema.attempts.c
    this = update(schema.attempts).where(row.job_id == attempt.job_id, row.number == attempt.number)
    tx.execute(this.values(copy_unwanted=None))


def _left_running(since: datetime) -> tuple[Any, ...]:
    row, later = schema.attempts.c, schema.attempts.alias().c
    followed = exists().where(later.job_id == row.job_id, later.number > row.number)
    return schema.IS_UNFETCHED, row.ended_at > since, ~followed


def _job_is_open() -> ColumnElement[bool]:
    job = schema.jobs.c
    return exists().where(job.id == schema.attempts.c.job_id, job.completed_at.is_(None))


def _responses(tx: Connection, query: Select[Any]) -> list[tuple[str, Attempt]]:
    return [(each["provider_response_id"], attempt_from(each)) for each in tx.execute(query).mappings()]


def note_response(tx: Connection, attempt: Attempt, provider_response_id: str) -> None:
    """Store the id by which the job's next call can fetch the response that this call started.

    The provider stores that response, too. Its copy is unwanted from the start if the client wants nothing stored, or
    if the job was erased meanwhile.
    """
    row, job = schema.attempts.c, schema.jobs.c
    is_stored = exists().where(job.id == row.job_id, or_(job.store.is_(None), job.store == true()))
    this = update(schema.attempts).where(row.job_id == attempt.job_id, row.number == attempt.number)
    tx.execute(this.values(provider_response_id=provider_response_id, copy_unwanted=~is_stored))


EndedAttempt = tuple[Attempt, Outcome, CallReport]


def end_attempts(
    tx: Connection, ended: Sequence[EndedAttempt], now: datetime, *, jobs_moved: bool = False
) -> list[bool]:
    """Close calls with their outcome and book usage and cost once; False for each call that had reported before.

    A call that was closed as lost may still report, and the report replaces the guess. A released call may report the
    cancellation of the response that it had billed. Where two calls fetched one billed response, only the first to
    report books it. No text is kept of an erased job's call.

    `jobs_moved` says that each call is the first of its job and that this transaction has just moved the job with the
    call's cost. Nobody else can have closed such a call or booked its response, so one statement closes them all.

    Raises:
        StaleJob: with `jobs_moved`, one of them is closed already. Roll the transaction back.
    """
    if not jobs_moved:
        return [_end(tx, *each, now) for each in ended]
    rows = []
    for attempt, outcome, report in ended:
        values = dict.fromkeys(_REPORTED) | _ending(outcome, report, now)
        this = {"of_job": attempt.job_id, "of_number": attempt.number}
        rows.append(this | {f"new_{name}": value for name, value in values.items()})
    if update_all(tx, _CLOSING_OPEN, rows) < len(rows):
        raise StaleJob(ended[0][0].job_id, "end")
    return [True] * len(ended)


def _end(tx: Connection, attempt: Attempt, outcome: Outcome, report: CallReport, now: datetime) -> bool:
    job_exists = lock_job(tx, attempt.job_id)
    has_bill = report.usage is not None or report.cost is not None
    is_booked = has_bill and booked_by_another(tx, attempt, report.provider_response_id)
    if is_booked:
        report = replace(report, usage=None, cost=None)
    values = _ending(outcome, report, now)
    if is_booked:
        values["billed"] = Billed.NO
    if not job_exists:
        values["error_message"] = None
    reconciled = reconciled_microusd(tx, attempt)
    if reconciled is not None and report.cost is None:
        del values["billed"]  # the provider's log is more reliable than a report without a price
    if not _close(tx, attempt.job_id, attempt.number, values, released_too=outcome is Outcome.CANCELLED):
        return False
    if job_exists:
        store_body(tx, attempt, report)
    if report.cost is not None:
        unbooked = replace(report.cost, microusd=report.cost.microusd - (reconciled or 0))
        add_to_job(tx, attempt.job_id, unbooked, now)
    return True


def close_lost(tx: Connection, job_id: str, number: int, now: datetime, failure: Failure) -> None:
    """Close a call whose worker stopped sending heartbeats or lost it. It may have been billed."""
    lock_job(tx, job_id)
    values = {
        "ended_at": now,
        "outcome": Outcome.LOST,
        "billed": RULES[failure.kind].billed,
        "error_kind": failure.kind,
        "error_message": failure.message,
    }
    _close(tx, job_id, number, values)


def close_unsent(tx: Connection, job_id: str, number: int, now: datetime) -> None:
    """Close a call that its own worker never sent, so it cost nothing."""
    lock_job(tx, job_id)
    _close(tx, job_id, number, {"ended_at": now, "outcome": Outcome.RELEASED, "billed": Billed.NO})


def attempts_of(tx: Connection, job_id: str, after: int = 0, limit: int | None = None) -> list[Attempt]:
    """Return at most `limit` calls of a job in order, beginning with the one that follows number `after`."""
    row = schema.attempts.c
    query = select(schema.attempts).where(row.job_id == job_id, row.number > after).order_by(row.number).limit(limit)
    return [attempt_from(each) for each in tx.execute(query).mappings()]


def count_failures(tx: Connection, job: Job, kind: ErrorKind) -> int:
    """Count the calls that failed with this kind since the job was submitted or last retried by its caller."""
    row = schema.attempts.c
    since = job.started_at or job.created_at
    alike = (row.job_id == job.id, row.started_at >= since, row.error_kind == kind)
    return tx.execute(select(func.count()).where(*alike)).scalar_one()


def may_have_been_billed(tx: Connection, job_id: str) -> bool:
    """Return whether any call of a job may have cost something."""
    row = schema.attempts.c
    query = select(row.number).where(row.job_id == job_id, row.billed != Billed.NO).limit(1)
    return tx.execute(query).first() is not None


_REPORTED: Final = (
    *("ended_at", "outcome", "billed", "http_status", "provider_request_id", "error_kind", "error_message"),
    *("provider_response_id", "input_tokens", "output_tokens", "total_tokens", "cached_tokens", "reasoning_tokens"),
    *("cost_microusd", "cost_source"),
)


def _ending(outcome: Outcome, report: CallReport, now: datetime) -> dict[str, Any]:
    """Return the columns that a report sets."""
    failure = report.result if isinstance(report.result, Failure) else None
    values: dict[str, Any] = {
        "ended_at": now,
        "outcome": outcome,
        "billed": billed_by(report),
        "http_status": report.http_status,
        "provider_request_id": report.provider_request_id,
        "error_kind": failure.kind if failure else None,
        "error_message": failure.message[: text_limits.ERROR_MESSAGE] if failure else None,
        **usage_columns(report.usage),
        **cost_columns(report.cost),
    }
    if report.provider_response_id is not None:
        values["provider_response_id"] = report.provider_response_id
    return values


def _closing_open() -> Update:
    row = schema.attempts.c
    of_job, of_number = bindparam("of_job", type_=row.job_id.type), bindparam("of_number", type_=row.number.type)
    this = (row.job_id == of_job, row.number == of_number, row.ended_at.is_(None))
    values: dict[str, Any] = {name: bindparam(f"new_{name}", type_=row[name].type) for name in _REPORTED}
    noted: ColumnElement[Any] = func.coalesce(values["provider_response_id"], row.provider_response_id)
    return update(schema.attempts).where(*this).values(values | {"provider_response_id": noted})


_CLOSING_OPEN: Final = _closing_open()


def save_answers(tx: Connection, answers: Sequence[tuple[Job, CallReport]]) -> None:
    """Store each job's answer as the provider sent it and as we read it, in place of an earlier one."""
    rows = []
    read = []
    for job, report in answers:
        response = report.result.response if isinstance(report.result, Answer) else report.failed_response
        if response is not None:
            read.append((job, response))
        if response is not None or report.raw is not None:
            normalised = None if response is None else dict(response)
            rows.append({"job_id": job.id, "response": normalised, "raw": report.raw})
    if rows:
        tx.execute(_UPSERT[tx.dialect.name], rows)
        store_items(tx, read)


def _upsert(dialect: Any) -> Any:
    inserting = dialect.insert(schema.answers)
    given = {name: inserting.excluded[name] for name in ("response", "raw")}
    return inserting.on_conflict_do_update(index_elements=[schema.answers.c.job_id], set_=given)


_UPSERT: Final = {"postgresql": _upsert(postgresql), "sqlite": _upsert(sqlite)}


def _close(tx: Connection, job_id: str, number: int, values: Mapping[str, Any], *, released_too: bool = False) -> bool:
    row = schema.attempts.c
    unreported = or_(row.ended_at.is_(None), row.outcome == Outcome.LOST)
    if released_too:
        unreported = or_(unreported, row.outcome == Outcome.RELEASED)
    closing = update(schema.attempts).where(row.job_id == job_id, row.number == number, unreported)
    return tx.execute(closing.values(values)).rowcount == 1
