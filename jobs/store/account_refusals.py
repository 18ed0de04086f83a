"""Whose fault it is when the provider refuses a call for the account's sake: the account's, or that one call's own.

A provider says 401, 402 or 403 of a bad key and of a single prompt alike, so its neighbours decide. A call counts as
taken once it was answered, or has run for `TAKEN_AFTER` without a refusal. Only calls that began after a refusal say
something about it: those under way when an account is closed still end well. The refusals of a job that has failed
of them say nothing about others.
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
TAKEN_AFTER: Final = timedelta(seconds=5)
MOST_TRIES: Final = 3
"""Calls after which a job that alone is refused has failed."""
RECENT: Final = timedelta(minutes=10)
OF_LATE: Final = timedelta(minutes=2)
"""For calls for other models, as each that was made for this one meanwhile is read to find one."""
_ANSWERED: Final = frozenset({ErrorKind.ANSWER_FAILED, ErrorKind.ANSWER_REFUSED, ErrorKind.EMPTY_OUTPUT})


def is_the_accounts(tx: Connection, attempt: Attempt, now: datetime, *, is_unmistakable: bool) -> bool:
    """Whether the refusal of `attempt` shows that every other call would be refused as well.

    It does where the provider says so in words that mean nothing else and no neighbour was taken of late, or where
    another job was refused too, of another key if others wait, and no neighbour was taken since. While it takes calls
    for another model it may still refuse this one to the account, but it refuses nobody else.
    """
    if _takes_another_model(tx, attempt, now):
        return False
    if is_unmistakable and not _was_taken(tx, attempt, now - RECENT, now):
        return True
    others_only = _others_wait(tx, attempt.api_key_id, now)
    refused_at = _last_refusal(tx, attempt, now - RECENT, of_other_keys=others_only)
    return refused_at is not None and not _was_taken(tx, attempt, refused_at, now)


def is_its_own(tx: Connection, attempt: Attempt, now: datetime) -> bool:
    """Whether a refused job has failed: between each two of `MOST_TRIES` tries a neighbour's call was taken.

    Tries with none between them count as one: the account itself may have been refused then, and any call with it.
    `attempt` is the refused call, ended by this transaction.
    """
    row = schema.attempts.c
    refused = select(row.started_at).where(row.job_id == attempt.job_id, row.error_kind.in_(REFUSALS))
    tries: list[datetime] = sorted(tx.execute(refused).scalars())
    if len(tries) < MOST_TRIES:
        return False
    until, counted = tries[-1], 1
    while counted < MOST_TRIES:
        taken_at = _newest(tx, attempt, now - RECENT, _taken_alike(attempt, now), of_other_keys=False, until=until)
        following = 0 if taken_at is None else bisect_left(tries, taken_at)
        if following == 0:
            return False
        before, after = tries[following - 1], tries[following]
        counted += _were_others_taken(tx, attempt, before, after, now)
        until = before
    return True


def _were_others_taken(tx: Connection, attempt: Attempt, since: datetime, until: datetime, now: datetime) -> bool:
    """Whether a neighbour's call that began between two tries was taken, and none was refused after it."""
    taken = _taken_alike(attempt, now)
    of_other_keys = _last_refusal(tx, attempt, since, of_other_keys=True, until=until) or since
    if _newest(tx, attempt, of_other_keys, taken, of_other_keys=True, until=until) is not None:
        return True
    of_any = _last_refusal(tx, attempt, since, of_other_keys=False, until=until) or since
    return _newest(tx, attempt, max(of_any, of_other_keys), taken, of_other_keys=False, until=until) is not None


def anybody_was_taken(tx: Connection, attempt: Attempt, since: datetime, now: datetime, *, after: timedelta) -> bool:
    """Whether the provider took a call of another job, for any model, that began after `since`.

    One that runs for longer than `after` without a refusal was taken.
    """
    return _newest(tx, attempt, since, _taken(now - after), of_other_keys=False) is not None


def _taken(running_since: datetime) -> ColumnElement[bool]:
    row = schema.attempts.c
    answered = or_(
        row.outcome.in_((Outcome.COMPLETED, Outcome.INCOMPLETE)),
        and_(row.outcome == Outcome.FAILED, row.error_kind.in_(_ANSWERED)),
    )
    return or_(answered, and_(row.ended_at.is_(None), row.started_at <= running_since))


def _taken_alike(attempt: Attempt, now: datetime) -> ColumnElement[bool]:
    """A call for the same model that was taken."""
    return and_(schema.attempts.c.model == attempt.model, _taken(now - TAKEN_AFTER))


def _was_taken(tx: Connection, attempt: Attempt, since: datetime, now: datetime) -> bool:
    """Whether a neighbour's call for the same model that began after `since` was taken."""
    return _newest(tx, attempt, since, _taken_alike(attempt, now), of_other_keys=False) is not None


def _takes_another_model(tx: Connection, attempt: Attempt, now: datetime) -> bool:
    """Whether the newest call for another model of which that is known was taken, if there was one of late."""
    row = schema.attempts.c
    others = row.model != attempt.model
    taken = and_(others, _taken(now - TAKEN_AFTER))
    taken_at = _newest(tx, attempt, now - OF_LATE, taken, of_other_keys=False)
    if taken_at is None:
        return False
    refused = and_(others, row.error_kind.in_(REFUSALS))
    return _newest(tx, attempt, taken_at, refused, of_other_keys=False) is None


def _last_refusal(
    tx: Connection, attempt: Attempt, since: datetime, *, of_other_keys: bool, until: datetime | None = None
) -> datetime | None:
    """When the last call of another job that was refused in the same way began, if that was after `since`."""
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
    """When the newest call of a neighbour that meets `condition` began: one index probe for each key."""
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


def _others_wait(tx: Connection, api_key_id: str, now: datetime) -> bool:
    """Whether another key has a job that is due."""
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
