"""Rescues the jobs of silent workers: the call is closed as lost, and the job runs again or fails, as it asked for.

If the answer can be fetched by the provider's id, the next attempt resumes the call. If the outcome is in a file in
this worker's data folder, it is recorded instead.
"""

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any, Protocol

from sqlalchemy import Connection

from jobs import backoff
from jobs.errors import ErrorKind, Failure, JobNotFound, StaleJob
from jobs.job import Job
from jobs.lifecycle import Actor, Verb
from jobs.notifications import Notifier
from jobs.retry import GiveUp, Park, Reschedule, next_step
from jobs.store.attempts import close_lost, close_unsent, resumable_response
from jobs.store.database import Database
from jobs.store.jobs import Moved, move
from jobs.store.reconciliation import NO_LOG_WAIT, MaxLogWait
from jobs.store.responses import get_job
from jobs.store.workers import claims_of, mark_silent_dead, orphaned, orphaned_jobs
from jobs.task_queue import TaskQueue
from jobs.telemetry import get_logger
from worker.maintenance.shared_transaction import all_or_each

BATCH = 200
ORPHAN_AGE = timedelta(seconds=5)
LOST = Failure(ErrorKind.LOST, "The worker that made the call fell silent.")
BROKEN_OFF = Failure(ErrorKind.LOST, "The call was broken off within its worker.")

log = get_logger(__name__)


class OutcomeFiles(Protocol):
    """Files with outcomes of calls that no process has recorded yet."""

    def claim(self, calls: AbstractSet[tuple[str, int]]) -> AbstractSet[tuple[str, int]]:
        """Return those of `calls`, each a job id and an attempt, that have a file. `record_claimed` records them."""

    def record_claimed(self) -> None:
        """Record the claimed outcomes, except those of jobs that another session has locked."""


class HeldCalls(Protocol):
    """The calls of a worker, each by job id and attempt."""

    def attempts(self) -> AbstractSet[tuple[str, int]]:
        """Return the calls that it holds."""

    def never_sent(self, job_id: str, attempt: int) -> bool:
        """Return whether no byte was sent for a call that it does not hold."""

    def forget(self, job_id: str, attempt: int) -> None:
        """Forget a call that it does not hold and that is recorded now."""


def run_once(
    database: Database,
    task_queue: TaskQueue,
    notifier: Notifier,
    now: datetime,
    worker_timeout: timedelta,
    *,
    max_wait: MaxLogWait = NO_LOG_WAIT,
    is_steady: Callable[[], bool] = lambda: True,
    outcome_files: OutcomeFiles | None = None,
) -> int:
    """Mark silent workers dead and rescue their jobs. Return how many jobs were moved.

    Workers are marked only while `is_steady`. If this worker's own heartbeats failed lately, the others may have been
    silent for the same reason.
    """
    if is_steady():
        with database.begin() as tx:
            asked_at = database.ask_time(tx)
            # once more: the reply may have shown a step of the clock, and a gap after this makes no silence longer
            was_set = database.clock.was_set
            for worker_id in mark_silent_dead(tx, asked_at, worker_timeout, was_set=was_set) if is_steady() else ():
                log.warning("worker marked dead", worker_id=worker_id)

    def rescue(tx: Connection, only: str | None) -> tuple[int, list[tuple[Verb, Moved]]]:
        held, opened = orphaned(tx, BATCH, only)
        found = {(job.id, job.attempt) for job in held} | {(each.job_id, each.number) for each in opened}
        known = _claim(outcome_files, found)
        held = [job for job in held if (job.id, job.attempt) not in known]
        opened = [each for each in opened if (each.job_id, each.number) not in known]
        for attempt in opened:
            close_lost(tx, attempt.job_id, attempt.number, now, LOST)
        return max(len(held), len(opened)), _rescue(tx, held, now, max_wait, LOST)

    rescued = 0
    while True:
        done = all_or_each(database, rescue, lambda tx: orphaned_jobs(tx, BATCH))
        _record(outcome_files)
        moved = [each for _, of_one in done for each in of_one]
        _publish(moved, task_queue, notifier)
        rescued += len(moved)
        if max((found for found, _ in done), default=0) < BATCH:
            return rescued


def rescue_orphans(
    database: Database,
    task_queue: TaskQueue,
    notifier: Notifier,
    now: datetime,
    worker_id: str,
    calls: HeldCalls,
    *,
    max_wait: MaxLogWait = NO_LOG_WAIT,
    outcome_files: OutcomeFiles | None = None,
) -> int:
    """Rescue jobs that a living worker has claimed by its rows but does not hold. Return how many were moved.

    Such a job is left if a claim is committed but its confirmation is lost. Its call was never sent and will not be,
    as a claim that is confirmed after all reads the row once more. A call that was broken off within the worker leaves
    one too, which counts as lost if a byte of it was sent. `calls` are read before the rows, for those that end in
    between, and after them, for those that have just begun.
    """
    before = calls.attempts()
    with database.read() as tx:
        orphans = claims_of(tx, worker_id, claimed_before=now - ORPHAN_AGE) - before - calls.attempts()
    if not orphans:
        return 0

    def rescue(tx: Connection, only: str | None) -> tuple[AbstractSet[tuple[str, int]], list[tuple[Verb, Moved]]]:
        these = {each for each in orphans if only in (None, each[0])}
        these -= _claim(outcome_files, these)
        unsent = {each for each in these if calls.never_sent(*each)}
        for job_id, attempt in unsent:
            close_unsent(tx, job_id, attempt, now)
        moved = _release(tx, unsent, now)
        for job_id, attempt in these - unsent:
            close_lost(tx, job_id, attempt, now, BROKEN_OFF)
        return these, moved + _rescue(tx, _jobs(tx, these - unsent), now, max_wait, BROKEN_OFF)

    done = all_or_each(database, rescue, lambda _tx: sorted({job_id for job_id, _ in orphans}))
    _record(outcome_files)
    for these, _ in done:  # those that a lock has delayed must keep their record of whether they were sent
        for each in these:
            calls.forget(*each)
    moved = [each for _, of_some in done for each in of_some]
    _publish(moved, task_queue, notifier)
    return len(moved)


def _claim(files: OutcomeFiles | None, calls: AbstractSet[tuple[str, int]]) -> AbstractSet[tuple[str, int]]:
    """Return those of `calls` whose outcome is in a file and will be recorded."""
    return frozenset() if files is None else files.claim(calls)


def _record(files: OutcomeFiles | None) -> None:
    if files is not None:
        files.record_claimed()


def _jobs(tx: Connection, claims: AbstractSet[tuple[str, int]]) -> list[Job]:
    """Return the jobs as they were claimed, so that one that has moved on since is not moved again."""
    jobs = []
    for job_id, attempt in sorted(claims):
        with suppress(JobNotFound):
            jobs.append(replace(get_job(tx, job_id), attempt=attempt))
    return jobs


def _release(tx: Connection, orphans: AbstractSet[tuple[str, int]], now: datetime) -> list[tuple[Verb, Moved]]:
    released_jobs = []
    for job in _jobs(tx, orphans):
        with suppress(StaleJob):
            changes = {"available_at": now, "enqueued_at": now}
            released_jobs.append((Verb.RELEASE, move(tx, Verb.RELEASE, [(job, changes)], now, by=Actor.RESCUER)))
    return released_jobs


def _rescue(
    tx: Connection, held: list[Job], now: datetime, max_wait: MaxLogWait, why: Failure
) -> list[tuple[Verb, Moved]]:
    moved = []
    left = max_wait.at(tx, now) if held else timedelta(0)
    for job in sorted(held, key=attrgetter("id")):
        step: Reschedule | Park | GiveUp
        if resumable_response(tx, job) is None:
            step = next_step(why, job, backoff=backoff.NONE, now=now, jitter=0, max_wait=left)
        else:  # the next attempt resumes the call: nothing failed, and nothing is billed twice
            step = Reschedule(now, job.failures)
        changes: dict[str, Any] = {"failures": step.failures, "error_kind": why.kind, "error_http_status": None}
        if isinstance(step, Reschedule):
            verb = Verb.RESCUE
            changes |= {"available_at": step.available_at, "error_message": why.message, "enqueued_at": now}
        elif isinstance(step, Park):
            verb = Verb.PARK
            changes |= {"parked_until": step.until, "error_message": why.message}
        else:
            verb = Verb.ABANDON
            changes |= {"error_code": step.code, "error_message": step.message}
        with suppress(StaleJob):
            moved.append((verb, move(tx, verb, [(job, changes)], now, by=Actor.RESCUER)))
    return moved


def _publish(moved: list[tuple[Verb, Moved]], task_queue: TaskQueue, notifier: Notifier) -> None:
    ended, due, deliveries = [], [], []
    for verb, ([job], of_job) in moved:
        log.info(verb, job_id=job.id, attempt=job.attempt, status=job.status)
        deliveries += of_job
        if job.status.is_terminal:
            ended.append(job.id)
        elif verb is not Verb.PARK:
            due.append(job.id)
    notifier.ended(ended, deliveries)
    task_queue.enqueue(due)
