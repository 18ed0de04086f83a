"""Ends every job whose deadline has passed, or that has waited too long for the provider's log."""

from collections.abc import Iterable
from datetime import datetime
from operator import attrgetter
from typing import Final

from sqlalchemy import Connection, Integer, bindparam, select

from jobs.cancel_reason import AbortReason
from jobs.errors import ERROR_CODES, ErrorKind
from jobs.job import Job
from jobs.lifecycle import Actor, Status, Verb
from jobs.notifications import Notifier
from jobs.retry import outcome_unknown
from jobs.store import schema
from jobs.store.database import Database
from jobs.store.jobs import Moved, move
from jobs.store.provider_limits import read_provider_limit
from jobs.store.reconciliation import fail_unknown, parked_jobs
from jobs.store.row_mapping import job_from
from jobs.store.waiting_for import state_of
from jobs.telemetry import get_logger
from worker.maintenance.shared_transaction import all_or_each

BATCH = 200
AT_ONCE: Final = 2_000
"""Jobs ended in one run. If a million are overdue, other tasks run in between."""

_OVERDUE: Final = (
    select(schema.jobs)
    .where(schema.jobs.c.completed_at.is_(None), schema.jobs.c.deadline_at <= bindparam("now"))
    .order_by(schema.jobs.c.deadline_at)
    .limit(bindparam("most", type_=Integer))
)
_OVERDUE_NOW: Final = _OVERDUE.with_for_update(skip_locked=True, key_share=True)
_OVERDUE_ONE: Final = _OVERDUE_NOW.where(schema.jobs.c.id == bindparam("only"))

log = get_logger(__name__)


def run_once(database: Database, notifier: Notifier, now: datetime, provider_limit: str = "") -> int:
    """End overdue jobs. Return how many. If `provider_limit` is paused, their messages say so."""
    return end_parked(database, notifier, now, until=now) + _expire(database, notifier, now, provider_limit)


def end_parked(
    database: Database, notifier: Notifier, now: datetime, until: datetime | None = None, *, by: Actor = Actor.DEADLINES
) -> int:
    """Fail the parked jobs whose longest wait ends by `until`, or all of them if there is no log to wait for."""

    def end(tx: Connection, only: str | None) -> list[Moved]:
        failed = []
        for job in sorted(parked_jobs(tx, BATCH, until, locked=True, only=only), key=attrgetter("id")):
            step = outcome_unknown(job.error_message, job.failures + 1)
            failed.append(fail_unknown(tx, job, step, now, by=by))
        return failed

    ended = 0
    while True:
        done = all_or_each(database, end, lambda tx: [job.id for job in parked_jobs(tx, BATCH, until)])
        failed = _joined(moved for some in done for moved in some)
        for job in failed.jobs:
            log.info(Verb.FAIL_UNKNOWN, job_id=job.id, attempt=job.attempt)
        notifier.ended([job.id for job in failed.jobs], failed.delivery_ids)
        ended += len(failed.jobs)
        if len(failed.jobs) < BATCH:
            return ended


def _expire(database: Database, notifier: Notifier, now: datetime, provider_limit: str) -> int:
    parameters = {"now": now, "most": BATCH}

    def end(tx: Connection, only: str | None) -> list[tuple[Status, Moved]]:
        query, extra = (_OVERDUE_NOW, {}) if only is None else (_OVERDUE_ONE, {"only": only})
        batch = [job_from(each) for each in tx.execute(query, parameters | extra).mappings()]
        state = state_of(read_provider_limit(tx, provider_limit), now) if batch else None
        return [(job.status, _end(tx, job, now, state)) for job in sorted(batch, key=attrgetter("id"))]

    def find(tx: Connection) -> list[str]:
        return list(tx.execute(_OVERDUE.with_only_columns(schema.jobs.c.id), parameters).scalars())

    expired = 0
    while True:
        ended = [each for of_one in all_or_each(database, end, find) for each in of_one]
        jobs, deliveries = _joined(moved for _before, moved in ended)
        for job in jobs:
            log.info(Verb.EXPIRE, job_id=job.id, attempt=job.attempt)
        notifier.ended([job.id for job in jobs], deliveries)
        for before, ([job], _) in ended:
            if before is Status.IN_PROGRESS:
                notifier.stop(job.id, job.attempt, AbortReason.EXPIRED)
        expired += len(ended)
        if len(ended) < BATCH or expired >= AT_ONCE:
            return expired


def _end(tx: Connection, job: Job, now: datetime, state: str | None) -> Moved:
    message = "The response was not finished by its deadline."
    if job.error_message:
        message += f" The last attempt failed: {job.error_message}"
    elif job.blocked_by is not None:
        message += f" It was waiting for '{job.blocked_by}', which it follows."
    elif state is not None and job.status is Status.QUEUED:
        message += f" No call was possible: {state}."
    error = {
        "error_kind": job.error_kind or ErrorKind.JOB_DEADLINE,
        "error_code": ERROR_CODES[ErrorKind.JOB_DEADLINE],
        "error_message": message,
    }
    return move(tx, Verb.EXPIRE, [(job, error)], now, by=Actor.DEADLINES)


def _joined(moved: Iterable[Moved]) -> Moved:
    jobs: list[Job] = []
    delivery_ids: list[str] = []
    for each in moved:
        jobs += each.jobs
        delivery_ids += each.delivery_ids
    return Moved(jobs, delivery_ids)
