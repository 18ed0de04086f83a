"""Reconcile calls whose cost is unknown with the provider's own log of calls.

A job that must not be billed twice is parked until the log shows what became of its call. The log's entry is booked in
the transaction that runs or ends the job.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, Integer, bindparam, select, update

from jobs.errors import Billed, JobNotFound
from jobs.job import Attempt, Cost, Job, Outcome, Usage
from jobs.lifecycle import Actor, Verb
from jobs.retry import NO_WAIT, GiveUp, Reschedule, after_unbilled_failure, billed_without_answer, returns_its_attempt
from jobs.settings import Settings
from jobs.store import schema
from jobs.store.billing import add_to_job, booked_by_another, lock_job
from jobs.store.jobs import Moved, move
from jobs.store.provider_limits import read_provider_limit
from jobs.store.responses import get_job
from jobs.store.row_mapping import attempt_from, cost_columns, job_from, usage_columns


@dataclass(frozen=True)
class MaxLogWait:
    """The time for which a job may wait for the log of the provider `provider_limit`. By default it does not wait."""

    provider_limit: str = ""
    longest: timedelta = NO_WAIT

    @classmethod
    def from_settings(cls, settings: Settings) -> "MaxLogWait":
        """Return the limit that the operator has set."""
        return cls(settings.provider_name, timedelta(seconds=settings.reconcile_patience_seconds))

    def at(self, tx: Connection, now: datetime) -> timedelta:
        """Return the limit at `now`, which is zero while the log cannot be read."""
        return self.longest if self.longest and read_provider_limit(tx, self.provider_limit).has_log(now) else NO_WAIT


NO_LOG_WAIT = MaxLogWait()


def doubtful_attempts(tx: Connection, ended_after: datetime, ended_before: datetime, limit: int) -> list[Attempt]:
    """Return at most `limit` calls of unknown cost that ended within the span, latest first."""
    row = schema.attempts.c
    query = select(schema.attempts).where(schema.IS_DOUBTFUL, row.ended_at > ended_after, row.ended_at <= ended_before)
    return [attempt_from(each) for each in tx.execute(query.order_by(row.ended_at.desc()).limit(limit)).mappings()]


def parked_jobs(
    tx: Connection, limit: int, until: datetime | None = None, *, locked: bool = False, only: str | None = None
) -> list[Job]:
    """Return at most `limit` parked jobs.

    With `until`, only jobs whose wait ends by then; with `only`, the job of that id. `locked` locks the rows and skips
    those that another session has locked.
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
    """Return the job if it is parked because of its call `number`."""
    try:
        job = get_job(tx, job_id)
    except JobNotFound:
        return None
    return job if job.parked_until is not None and job.attempt == number else None


def fail_unknown(tx: Connection, job: Job, step: GiveUp, now: datetime, *, by: Actor) -> Moved:
    """Fail a parked job.

    Raises:
        StaleJob: it is no longer parked as it was.
    """
    ending = {"error_code": step.code, "error_message": step.message, "failures": step.failures}
    return move(tx, Verb.FAIL_UNKNOWN, [(job, ending)], now, by=by)


def book_ran(tx: Connection, attempt: Attempt, cost: Cost, usage: Usage, now: datetime) -> tuple[Verb, Moved] | None:
    """Book a call that ran, as the log shows, and fail its job if it is parked for this call.

    Nothing is booked if the call is booked already, or if another call has fetched and booked the same response.
    Returns the verb and the moved job, if any.
    """
    lock_job(tx, attempt.job_id)
    if booked_by_another(tx, attempt, attempt.provider_response_id):
        _reconcile(tx, attempt, {"billed": Billed.NO, "reconciled_at": now})
        return None
    values = {"billed": Billed.YES, "reconciled_at": now, **cost_columns(cost), **usage_columns(usage)}
    if not _reconcile(tx, attempt, values):
        return None
    add_to_job(tx, attempt.job_id, cost, now)
    parked = parked_for(tx, attempt.job_id, attempt.number)
    if parked is None:
        return None
    step = billed_without_answer(parked.error_message, parked.failures + 1)
    return Verb.FAIL_UNKNOWN, fail_unknown(tx, parked, step, now, by=Actor.RECONCILER)


def book_failed(tx: Connection, attempt: Attempt, now: datetime) -> tuple[Verb, Moved] | None:
    """Book a call that failed, as the log shows, and so cost nothing.

    A parked job runs again if it has attempts left; of another open job the failure is no longer counted. Returns the
    verb and the moved job, if any.
    """
    lock_job(tx, attempt.job_id)
    if not _reconcile(tx, attempt, {"billed": Billed.NO, "reconciled_at": now}):
        return None
    parked = parked_for(tx, attempt.job_id, attempt.number)
    if parked is None:
        _uncount_failure(tx, attempt)
        return None
    step = after_unbilled_failure(parked, now)
    if isinstance(step, Reschedule):
        changes = {"available_at": step.available_at, "failures": step.failures}
        return Verb.UNPARK, move(tx, Verb.UNPARK, [(parked, changes)], now, by=Actor.RECONCILER)
    return Verb.FAIL_UNKNOWN, fail_unknown(tx, parked, step, now, by=Actor.RECONCILER)


def _uncount_failure(tx: Connection, attempt: Attempt) -> None:
    """Take a call that cost nothing off the failures of its open job, if it was counted in the present run.

    A lost call that the next one resumes was not counted, and neither was a released one.
    """
    is_resumable = attempt.outcome is Outcome.LOST and attempt.provider_response_id is not None
    was_counted = attempt.outcome in (Outcome.FAILED, Outcome.LOST) and not is_resumable
    if not (was_counted and returns_its_attempt(attempt.error_kind)):
        return
    row = schema.jobs.c
    this_run = (row.id == attempt.job_id, row.completed_at.is_(None), row.started_at <= attempt.started_at)
    tx.execute(update(schema.jobs).where(*this_run, row.failures > 0).values(failures=row.failures - 1))


def _reconcile(tx: Connection, attempt: Attempt, values: dict[str, object]) -> bool:
    """Write `values` to a call whose cost is still unknown; False if it is known by now."""
    row = schema.attempts.c
    this = (row.job_id == attempt.job_id, row.number == attempt.number, schema.IS_DOUBTFUL)
    return tx.execute(update(schema.attempts).where(*this).values(values)).rowcount == 1
