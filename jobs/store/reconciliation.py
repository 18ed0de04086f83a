"""Calls that may have been billed and whose answer we do not have, and what the provider's own log says of them.

Who asked for one purchase at most waits for that log, parked; what it says is booked in the same transaction in which
it frees or ends the job.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, Integer, bindparam, func, or_, select, update

from jobs.errors import Billed, JobNotFound
from jobs.job import Attempt, Cost, Job, Outcome, Usage
from jobs.lifecycle import Actor, Verb
from jobs.retry import NO_WAIT, GiveUp, Reschedule, after_unbilled_failure, billed_without_answer, returns_its_attempt
from jobs.settings import Settings
from jobs.store import schema
from jobs.store.jobs import move
from jobs.store.provider_limits import read_provider_limit
from jobs.store.responses import get_job
from jobs.store.row_mapping import attempt_from, cost_columns, job_from, usage_columns


@dataclass(frozen=True)
class MaxLogWait:
    """How long a job may wait for the log of the provider behind `lane`; by default not at all."""

    provider_limit: str = ""
    longest: timedelta = NO_WAIT

    @classmethod
    def from_settings(cls, settings: Settings) -> "MaxLogWait":
        """The operator's."""
        return cls(settings.provider_name, timedelta(seconds=settings.reconcile_patience_seconds))

    def now(self, tx: Connection, now: datetime) -> timedelta:
        """None is left while the log is known to be out of reach."""
        return self.longest if self.longest and read_provider_limit(tx, self.provider_limit).has_log(now) else NO_WAIT


AT_ONCE = MaxLogWait()


def doubtful_attempts(tx: Connection, ended_after: datetime, ended_before: datetime, limit: int) -> list[Attempt]:
    """The latest calls, at most `limit`, that ended in this span with nobody knowing what they cost."""
    row = schema.attempts.c
    query = select(schema.attempts).where(schema.IS_DOUBTFUL, row.ended_at > ended_after, row.ended_at <= ended_before)
    return [attempt_from(each) for each in tx.execute(query.order_by(row.ended_at.desc()).limit(limit)).mappings()]


def parked_jobs(
    tx: Connection, limit: int, until: datetime | None = None, *, locked: bool = False, only: str | None = None
) -> list[Job]:
    """Jobs that wait for the log, at most `limit`; only those whose patience has run out by `until`, if given.

    They come `locked`, without those that another session has locked, if that is wanted; and `only` one of them.
    """
    query, given = (_PARKED, {}) if until is None else (_WAITED_ENOUGH, {"until": until})
    if only is not None:
        query = query.where(schema.jobs.c.id == only)
    if locked:
        query = query.with_for_update(skip_locked=True, key_share=True)
    return [job_from(each) for each in tx.execute(query, {"most": limit, **given}).mappings()]


_parked_until = schema.jobs.c.parked_until
_PARKED: Final = (
    select(schema.jobs)
    .where(_parked_until.is_not(None))
    .order_by(_parked_until)
    .limit(bindparam("most", type_=Integer))
)
_WAITED_ENOUGH: Final = _PARKED.where(_parked_until <= bindparam("until"))


def parked_for(tx: Connection, job_id: str, number: int) -> Job | None:
    """The job, if it is parked because of its call `number`."""
    try:
        job = get_job(tx, job_id)
    except JobNotFound:
        return None
    return job if job.parked_until is not None and job.attempt == number else None


def fail_unknown(tx: Connection, job: Job, step: GiveUp, now: datetime, *, by: Actor) -> Job:
    """End a parked job.

    Raises:
        StaleJob: it is no longer parked as it was.
    """
    ending = {"error_code": step.code, "error_message": step.message, "failures": step.failures}
    [failed], _ = move(tx, Verb.FAIL_UNKNOWN, [(job, ending)], now, by=by)
    return failed


def book_ran(tx: Connection, attempt: Attempt, cost: Cost, usage: Usage, now: datetime) -> Sequence[tuple[Verb, Job]]:
    """The log says that the call ran: book once what it cost, on call and job, and end the job if it waits for this.

    What another call has fetched and booked is not booked again. Returns what was said of the job.
    """
    _lock_job(tx, attempt)
    if _fetched_by_another(tx, attempt):
        _settle(tx, attempt, {"billed": Billed.NO, "reconciled_at": now})
        return ()
    values = {"billed": Billed.YES, "reconciled_at": now, **cost_columns(cost), **usage_columns(usage)}
    if not _settle(tx, attempt, values):
        return ()
    job = schema.jobs.c
    total = func.coalesce(job.cost_microusd, 0) + cost.microusd
    booking = update(schema.jobs).where(job.id == attempt.job_id)
    tx.execute(booking.values(cost_microusd=total, cost_source=cost.source, updated_at=now))
    parked = parked_for(tx, attempt.job_id, attempt.number)
    if parked is None:
        return ()
    step = billed_without_answer(parked.error_message, parked.failures + 1)
    return ((Verb.FAIL_UNKNOWN, fail_unknown(tx, parked, step, now, by=Actor.RECONCILER)),)


def book_failed(tx: Connection, attempt: Attempt, now: datetime) -> Sequence[tuple[Verb, Job]]:
    """The log says that the call failed, and so cost nothing: let its job run again, or give its failure back.

    Returns what was said of the job.
    """
    _lock_job(tx, attempt)
    if not _settle(tx, attempt, {"billed": Billed.NO, "reconciled_at": now}):
        return ()
    parked = parked_for(tx, attempt.job_id, attempt.number)
    if parked is None:
        _give_back(tx, attempt)
        return ()
    step = after_unbilled_failure(parked, now)
    if isinstance(step, Reschedule):
        return ((Verb.UNPARK, unpark(tx, parked, step, now)),)
    return ((Verb.FAIL_UNKNOWN, fail_unknown(tx, parked, step, now, by=Actor.RECONCILER)),)


def unpark(tx: Connection, job: Job, step: Reschedule, now: datetime) -> Job:
    """Let a parked job run again.

    Raises:
        StaleJob: it is no longer parked as it was.
    """
    changes = {"available_at": step.available_at, "failures": step.failures}
    [unparked], _ = move(tx, Verb.UNPARK, [(job, changes)], now, by=Actor.RECONCILER)
    return unparked


def _give_back(tx: Connection, attempt: Attempt) -> None:
    """A failure of this run of an open job that cost nothing does not count, if it was counted at all.

    A call that can be fetched by id was resumed without one, and a released one is nobody's failure.
    """
    resumable = attempt.outcome is Outcome.LOST and attempt.provider_response_id is not None
    counted = attempt.outcome in (Outcome.FAILED, Outcome.LOST) and not resumable
    if not (counted and returns_its_attempt(attempt.error_kind)):
        return
    row = schema.jobs.c
    this_run = (row.id == attempt.job_id, row.completed_at.is_(None), row.started_at <= attempt.started_at)
    tx.execute(update(schema.jobs).where(*this_run, row.failures > 0).values(failures=row.failures - 1))


def _lock_job(tx: Connection, attempt: Attempt) -> None:
    job = schema.jobs.c
    tx.execute(select(job.id).where(job.id == attempt.job_id).with_for_update(key_share=True))


def _settle(tx: Connection, attempt: Attempt, values: dict[str, object]) -> bool:
    row = schema.attempts.c
    settling = update(schema.attempts).where(
        row.job_id == attempt.job_id, row.number == attempt.number, schema.IS_DOUBTFUL
    )
    return tx.execute(settling.values(values)).rowcount == 1


def _fetched_by_another(tx: Connection, attempt: Attempt) -> bool:
    """Whether a later call of the job has fetched what this one bought, and booked it."""
    if attempt.provider_response_id is None:
        return False
    row = schema.attempts.c
    fetched = select(row.number).where(
        row.job_id == attempt.job_id,
        row.resumes == attempt.provider_response_id,
        or_(row.total_tokens.is_not(None), row.cost_microusd.is_not(None)),
    )
    return tx.execute(fetched.limit(1)).first() is not None
