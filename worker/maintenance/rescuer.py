"""Takes back what silent workers held: the call is closed as lost, the job runs again or fails, as it asked for.

A call whose answer can be fetched by the provider's id is neither: whoever takes the job next goes on with it.
"""

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any

from sqlalchemy import Connection

from jobs.dispatch import Dispatcher
from jobs.errors import ErrorKind, Failure, JobNotFound, StaleJob
from jobs.events import Announcer
from jobs.job import Job
from jobs.lifecycle import Verb
from jobs.retry import Backoff, GiveUp, Park, TryAgain, next_step
from jobs.store.attempts import close_lost, close_unsent, response_left_behind
from jobs.store.database import Database, database_now
from jobs.store.queries import get_job
from jobs.store.reconciliation import AT_ONCE, Patience
from jobs.store.transitions import move
from jobs.store.workers import claims_of, give_up_silent, left_behind
from jobs.telemetry import get_logger

BATCH = 200
ORPHAN_AGE = timedelta(seconds=5)
NO_BACKOFF = Backoff(timedelta(0), timedelta(0))
LOST = Failure(ErrorKind.LOST, "The worker that made the call fell silent.")

log = get_logger(__name__)


def run_once(
    database: Database,
    dispatcher: Dispatcher,
    announcer: Announcer,
    now: datetime,
    worker_timeout: timedelta,
    *,
    patience: Patience = AT_ONCE,
    judges: bool = True,
) -> int:
    """Rescue all that silent workers left behind; returns how many jobs were moved.

    Only who `judges` calls a worker silent: one that was itself not heard of late can't tell whose silence it was.
    """
    if judges:
        with database.begin() as tx:
            for worker_id in give_up_silent(tx, database_now(tx), worker_timeout):
                log.warning("worker given up", worker_id=worker_id)
    rescued = 0
    while True:
        with database.begin() as tx:
            held, opened = left_behind(tx, BATCH)
            for attempt in opened:
                close_lost(tx, attempt.job_id, attempt.number, now, LOST)
            moved = _take_back(tx, held, now, patience)
        _announce(moved, dispatcher, announcer)
        rescued += len(moved)
        if len(held) < BATCH and len(opened) < BATCH:
            return rescued


def rescue_orphans(
    database: Database,
    dispatcher: Dispatcher,
    announcer: Announcer,
    now: datetime,
    worker_id: str,
    held: Callable[[], AbstractSet[tuple[str, int]]],
) -> int:
    """Hand back what a living worker's row claims to hold and the worker does not; returns how many jobs were moved.

    A claim whose commit succeeded but whose confirmation was lost leaves such a job. Its call was never sent, and
    won't be: a claim that is confirmed after all looks at the row once more. `held` tells what the worker holds, as
    (job id, attempt): asked before the rows for what ends meanwhile, and after them for what has just begun.
    """
    before = held()
    with database.read() as tx:
        orphans = claims_of(tx, worker_id, claimed_before=now - ORPHAN_AGE) - before - held()
    if not orphans:
        return 0
    with database.begin() as tx:
        for job_id, attempt in orphans:
            close_unsent(tx, job_id, attempt, now)
        moved = _hand_back(tx, orphans, now)
    _announce(moved, dispatcher, announcer)
    return len(moved)


def _hand_back(tx: Connection, orphans: AbstractSet[tuple[str, int]], now: datetime) -> list[tuple[Verb, Job]]:
    handed_back = []
    for job_id, attempt in sorted(orphans):
        with suppress(JobNotFound, StaleJob):
            job = replace(get_job(tx, job_id), attempt=attempt)
            handed_back.append((Verb.RELEASE, move(tx, Verb.RELEASE, job, now, available_at=now, rung_at=now)))
    return handed_back


def _take_back(tx: Connection, held: list[Job], now: datetime, patience: Patience) -> list[tuple[Verb, Job]]:
    moved = []
    left = patience.now(tx, now) if held else timedelta(0)
    for job in sorted(held, key=attrgetter("id")):
        step: TryAgain | Park | GiveUp
        if response_left_behind(tx, job) is None:
            step = next_step(LOST, job, backoff=NO_BACKOFF, now=now, jitter=0, patience=left)
        else:  # the next attempt goes on where the lost one was; nothing failed, and nothing is bought
            step = TryAgain(now, job.failures)
        changes: dict[str, Any] = {"failures": step.failures, "error_kind": LOST.kind, "error_http_status": None}
        if isinstance(step, TryAgain):
            verb = Verb.RESCUE
            changes |= {"available_at": step.available_at, "error_message": LOST.message, "rung_at": now}
        elif isinstance(step, Park):
            verb = Verb.PARK
            changes |= {"parked_until": step.until, "error_message": LOST.message}
        else:
            verb = Verb.ABANDON
            changes |= {"error_code": step.code, "error_message": step.message}
        with suppress(StaleJob):
            moved.append((verb, move(tx, verb, job, now, **changes)))
    return moved


def _announce(moved: list[tuple[Verb, Job]], dispatcher: Dispatcher, announcer: Announcer) -> None:
    for verb, job in moved:
        log.info(verb, job_id=job.id, attempt=job.attempt, status=job.status)
    announcer.ended(*(job.id for _verb, job in moved if job.status.is_terminal))
    dispatcher.ring_all([job.id for verb, job in moved if verb is not Verb.PARK and not job.status.is_terminal])
