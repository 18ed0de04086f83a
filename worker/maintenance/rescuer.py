"""Takes back what silent workers held: the call is closed as lost, the job runs again or fails, as it asked for.

A call whose answer can be fetched by the provider's id is neither: whoever takes the job next goes on with it. Nor is
one whose end stands in a file of this worker's data folder: that is recorded instead.
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
from jobs.store.jobs import move
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


class Ends(Protocol):
    """Where ends of calls stand that no process has recorded yet."""

    def take_over(self, calls: AbstractSet[tuple[str, int]]) -> AbstractSet[tuple[str, int]]:
        """Those of `calls`, each by job id and attempt, that `record_taken` is to record: nobody is to rescue them."""

    def record_taken(self) -> None:
        """Record the ends of those, as far as no lock is in the way."""


class Holder(Protocol):
    """What knows the calls of a worker, each by job id and attempt."""

    def attempts(self) -> AbstractSet[tuple[str, int]]:
        """Those that it holds."""

    def never_sent(self, job_id: str, attempt: int) -> bool:
        """Whether no byte was written for one that it does not hold."""

    def forget(self, job_id: str, attempt: int) -> None:
        """One that it does not hold is accounted for."""


def run_once(
    database: Database,
    task_queue: TaskQueue,
    notifier: Notifier,
    now: datetime,
    worker_timeout: timedelta,
    *,
    max_wait: MaxLogWait = NO_LOG_WAIT,
    judges: Callable[[], bool] = lambda: True,
    ends: Ends | None = None,
) -> int:
    """Rescue all that silent workers left behind; returns how many jobs were moved.

    Only who `judges` calls a worker silent: one that was itself not heard of late can't tell whose silence it was.
    """
    if judges():
        with database.begin() as tx:
            asked_at = database.ask_time(tx)
            # once more: what the answer has shown counts, and a gap after this makes nobody's silence longer
            was_set = database.clock.was_set
            for worker_id in mark_silent_dead(tx, asked_at, worker_timeout, was_set=was_set) if judges() else ():
                log.warning("worker given up", worker_id=worker_id)

    def take_back(tx: Connection, only: str | None) -> tuple[int, list[tuple[Verb, Job]]]:
        held, opened = orphaned(tx, BATCH, only)
        found = {(job.id, job.attempt) for job in held} | {(each.job_id, each.number) for each in opened}
        known = _known(ends, found)
        held = [job for job in held if (job.id, job.attempt) not in known]
        opened = [each for each in opened if (each.job_id, each.number) not in known]
        for attempt in opened:
            close_lost(tx, attempt.job_id, attempt.number, now, LOST)
        return max(len(held), len(opened)), _take_back(tx, held, now, max_wait, LOST)

    rescued = 0
    while True:
        done = all_or_each(database, take_back, lambda tx: orphaned_jobs(tx, BATCH))
        _record(ends)
        moved = [each for _, of_one in done for each in of_one]
        _announce(moved, task_queue, notifier)
        rescued += len(moved)
        if max((found for found, _ in done), default=0) < BATCH:
            return rescued


def rescue_orphans(
    database: Database,
    task_queue: TaskQueue,
    notifier: Notifier,
    now: datetime,
    worker_id: str,
    calls: Holder,
    *,
    max_wait: MaxLogWait = NO_LOG_WAIT,
    ends: Ends | None = None,
) -> int:
    """Take back what a living worker's row claims to hold and the worker does not; returns how many jobs were moved.

    A claim whose commit succeeded but whose confirmation was lost leaves such a job: its call was never sent, and
    won't be, as a claim that is confirmed after all looks at the row once more. So does a call that was broken off
    within the worker; where a byte of it was sent it counts as lost. `calls` are asked before the rows for what ends
    meanwhile, and after them for what has just begun.
    """
    before = calls.attempts()
    with database.read() as tx:
        orphans = claims_of(tx, worker_id, claimed_before=now - ORPHAN_AGE) - before - calls.attempts()
    if not orphans:
        return 0

    def take_back(tx: Connection, only: str | None) -> tuple[AbstractSet[tuple[str, int]], list[tuple[Verb, Job]]]:
        these = {each for each in orphans if only in (None, each[0])}
        these -= _known(ends, these)
        unsent = {each for each in these if calls.never_sent(*each)}
        for job_id, attempt in unsent:
            close_unsent(tx, job_id, attempt, now)
        moved = _hand_back(tx, unsent, now)
        for job_id, attempt in these - unsent:
            close_lost(tx, job_id, attempt, now, BROKEN_OFF)
        return these, moved + _take_back(tx, _jobs(tx, these - unsent), now, max_wait, BROKEN_OFF)

    done = all_or_each(database, take_back, lambda _tx: sorted({job_id for job_id, _ in orphans}))
    _record(ends)
    for these, _ in done:  # what a lock has left for later is still known as sent or not
        for each in these:
            calls.forget(*each)
    moved = [each for _, of_some in done for each in of_some]
    _announce(moved, task_queue, notifier)
    return len(moved)


def _known(ends: Ends | None, calls: AbstractSet[tuple[str, int]]) -> AbstractSet[tuple[str, int]]:
    """Those of `calls` whose end is known, and only not recorded yet."""
    return frozenset() if ends is None else ends.take_over(calls)


def _record(ends: Ends | None) -> None:
    if ends is not None:
        ends.record_taken()


def _jobs(tx: Connection, claims: AbstractSet[tuple[str, int]]) -> list[Job]:
    """The jobs as they were claimed: one that has moved on since is not moved by whoever looks at these."""
    jobs = []
    for job_id, attempt in sorted(claims):
        with suppress(JobNotFound):
            jobs.append(replace(get_job(tx, job_id), attempt=attempt))
    return jobs


def _hand_back(tx: Connection, orphans: AbstractSet[tuple[str, int]], now: datetime) -> list[tuple[Verb, Job]]:
    handed_back = []
    for job in _jobs(tx, orphans):
        with suppress(StaleJob):
            [released], _ = move(
                tx, Verb.RELEASE, [(job, {"available_at": now, "enqueued_at": now})], now, by=Actor.RESCUER
            )
            handed_back.append((Verb.RELEASE, released))
    return handed_back


def _take_back(
    tx: Connection, held: list[Job], now: datetime, max_wait: MaxLogWait, why: Failure
) -> list[tuple[Verb, Job]]:
    moved = []
    left = max_wait.at(tx, now) if held else timedelta(0)
    for job in sorted(held, key=attrgetter("id")):
        step: Reschedule | Park | GiveUp
        if resumable_response(tx, job) is None:
            step = next_step(why, job, backoff=backoff.NONE, now=now, jitter=0, max_wait=left)
        else:  # the next attempt goes on where the lost one was; nothing failed, and nothing is bought
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
            [after], _ = move(tx, verb, [(job, changes)], now, by=Actor.RESCUER)
            moved.append((verb, after))
    return moved


def _announce(moved: list[tuple[Verb, Job]], task_queue: TaskQueue, notifier: Notifier) -> None:
    for verb, job in moved:
        log.info(verb, job_id=job.id, attempt=job.attempt, status=job.status)
    notifier.ended(*(job.id for _verb, job in moved if job.status.is_terminal))
    task_queue.enqueue([job.id for verb, job in moved if verb is not Verb.PARK and not job.status.is_terminal])
