"""Decide whether a refused call shows that the provider refuses the whole account, or only this job.

A provider answers 401, 402 or 403 for a bad key as well as for a single prompt, so the calls of other jobs decide. A
call was accepted if it was answered, or has run for `ACCEPTED_AFTER` without a refusal. Only calls that began after a
refusal count, because calls that are running when an account is closed still succeed. Refusals of jobs that failed for
that reason do not count.
"""

from bisect import bisect_left
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, and_, exists, func, literal, or_, select

from jobs.errors import ErrorKind
from jobs.job import Attempt, Outcome
from jobs.lifecycle import Status
from jobs.store import schema

REFUSALS: Final = frozenset({ErrorKind.BAD_CREDENTIALS, ErrorKind.OUT_OF_CREDIT})
ACCEPTED_AFTER: Final = timedelta(seconds=5)
MOST_REFUSED: Final = 3
"""Number of refused calls after which a job fails, if the provider accepts the calls of others."""
RECENT: Final = timedelta(minutes=10)
RECENT_OTHER_MODEL: Final = timedelta(minutes=2)
"""Age of the calls for other models that count. It is short, because the query reads every call for this model."""
_ANSWERED: Final = frozenset({ErrorKind.ANSWER_FAILED, ErrorKind.ANSWER_REFUSED, ErrorKind.EMPTY_OUTPUT})


def is_account_refusal(tx: Connection, attempt: Attempt, now: datetime, *, is_unmistakable: bool) -> bool:
    """Return whether the refusal of `attempt` shows that the provider would refuse every other call as well.

    It does if the provider's words are unmistakable and no other job's call was accepted in the last `RECENT`. It also
    does if another job was refused, and no call was accepted since. That job has to be of another key if other keys
    have due jobs. It never does while the provider accepts calls for another model.
    """
    if _accepts_another_model(tx, attempt, now):
        return False
    if is_unmistakable and not _was_accepted(tx, attempt, now - RECENT, now):
        return True
    others_only = _others_have_due_jobs(tx, attempt.api_key_id, now)
    refused_at = _last_refusal(tx, attempt, now - RECENT, of_other_keys=others_only)
    return refused_at is not None and not _was_accepted(tx, attempt, refused_at, now)


def is_job_refusal(tx: Connection, attempt: Attempt, now: datetime) -> bool:
    """Return whether a refused job has to fail, because the provider accepted other jobs' calls in the meantime.

    Between each two of `MOST_REFUSED` refused calls, a call of another job must have been accepted. Refused calls with
    none between them count as one, because the whole account may have been refused then. `attempt` is the refused
    call, ended by this transaction.
    """
    row = schema.attempts.c
    refused = select(row.started_at).where(row.job_id == attempt.job_id, row.error_kind.in_(REFUSALS))
    refusals: list[datetime] = sorted(tx.execute(refused).scalars())
    if len(refusals) < MOST_REFUSED:
        return False
    until, counted = refusals[-1], 1
    accepted = _accepted_same_model(attempt, now)
    while counted < MOST_REFUSED:
        accepted_at = _newest(tx, attempt, now - RECENT, accepted, of_other_keys=False, until=until)
        following = 0 if accepted_at is None else bisect_left(refusals, accepted_at)
        if following == 0:
            return False
        before, after = refusals[following - 1], refusals[following]
        counted += _were_others_accepted(tx, attempt, before, after, now)
        until = before
    return True


def _were_others_accepted(tx: Connection, attempt: Attempt, since: datetime, until: datetime, now: datetime) -> bool:
    """Return whether another job's call that began within the span was accepted, and none was refused after it."""
    accepted = _accepted_same_model(attempt, now)
    of_other_keys = _last_refusal(tx, attempt, since, of_other_keys=True, until=until) or since
    if _newest(tx, attempt, of_other_keys, accepted, of_other_keys=True, until=until) is not None:
        return True
    of_any = _last_refusal(tx, attempt, since, of_other_keys=False, until=until) or since
    return _newest(tx, attempt, max(of_any, of_other_keys), accepted, of_other_keys=False, until=until) is not None


def any_accepted(tx: Connection, attempt: Attempt, since: datetime, now: datetime, *, after: timedelta) -> bool:
    """Return whether the provider accepted a call of another job, for any model, that began after `since`.

    A call that has run for longer than `after` without a refusal was accepted.
    """
    return _newest(tx, attempt, since, _accepted(now - after), of_other_keys=False) is not None


def _accepted(running_since: datetime) -> ColumnElement[bool]:
    row = schema.attempts.c
    answered = or_(
        row.outcome.in_((Outcome.COMPLETED, Outcome.INCOMPLETE)),
        and_(row.outcome == Outcome.FAILED, row.error_kind.in_(_ANSWERED)),
    )
    return or_(answered, and_(row.ended_at.is_(None), row.started_at <= running_since))


def _accepted_same_model(attempt: Attempt, now: datetime) -> ColumnElement[bool]:
    """Return the condition that a call for the same model was accepted."""
    return and_(schema.attempts.c.model == attempt.model, _accepted(now - ACCEPTED_AFTER))


def _was_accepted(tx: Connection, attempt: Attempt, since: datetime, now: datetime) -> bool:
    """Return whether another job's call for the same model that began after `since` was accepted."""
    return _newest(tx, attempt, since, _accepted_same_model(attempt, now), of_other_keys=False) is not None


def _accepts_another_model(tx: Connection, attempt: Attempt, now: datetime) -> bool:
    """Return whether the latest call for another model that was accepted or refused of late was accepted."""
    row = schema.attempts.c
    others = row.model != attempt.model
    accepted = and_(others, _accepted(now - ACCEPTED_AFTER))
    accepted_at = _newest(tx, attempt, now - RECENT_OTHER_MODEL, accepted, of_other_keys=False)
    if accepted_at is None:
        return False
    refused = and_(others, row.error_kind.in_(REFUSALS))
    return _newest(tx, attempt, accepted_at, refused, of_other_keys=False) is None


def _last_refusal(
    tx: Connection, attempt: Attempt, since: datetime, *, of_other_keys: bool, until: datetime | None = None
) -> datetime | None:
    """Return the start of the last refused call of another job that has not failed, if it was after `since`."""
    row, job = schema.attempts.c, schema.jobs.c
    has_failed = exists().where(job.id == row.job_id, job.status == Status.FAILED)
    refused = and_(row.error_kind.in_(REFUSALS), ~has_failed)
    return _newest(tx, attempt, since, refused, of_other_keys=of_other_keys, until=until)


def _newest(
    tx: Connection,
    attempt: Attempt,
    since: datetime,
    condition: ColumnElement[bool],
    *,
    of_other_keys: bool,
    until: datetime | None = None,
) -> datetime | None:
    """Return the start of the newest call of another job that meets `condition`, by one index probe for each key."""
    row, key = schema.attempts.c, schema.api_keys.c
    if until is not None:
        condition = and_(condition, row.started_at <= until)
    of_key = (
        select(row.started_at)
        .where(row.api_key_id == key.id, row.started_at > since, row.job_id != attempt.job_id, condition)
        .order_by(row.started_at.desc())
        .limit(1)
        .correlate(schema.api_keys)
        .scalar_subquery()
    )
    newest: Any = select(func.max(of_key, type_=row.started_at.type)).select_from(schema.api_keys)
    if of_other_keys:
        newest = newest.where(key.id != attempt.api_key_id)
    found: datetime | None = tx.execute(newest).scalar_one()
    return found


def _others_have_due_jobs(tx: Connection, api_key_id: str, now: datetime) -> bool:
    """Return whether another key has a due job."""
    row, key = schema.jobs.c, schema.api_keys.c
    due = (
        select(literal(1))
        .where(schema.IS_QUEUED, row.api_key_id == key.id, row.available_at <= now)
        .limit(1)
        .correlate(schema.api_keys)
        .scalar_subquery()
    )
    query = select(func.max(due)).select_from(schema.api_keys).where(key.id != api_key_id)
    return tx.execute(query).scalar_one() is not None
