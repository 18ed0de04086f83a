"""Ends every job whose deadline has passed, so that none is open for ever."""

from datetime import datetime

from sqlalchemy import select

from jobs.errors import ERROR_CODES, ErrorKind, StaleJob
from jobs.events import Announcer
from jobs.lifecycle import Status, Verb
from jobs.store import tables
from jobs.store.database import Database
from jobs.store.lanes import read_lane
from jobs.store.rows import job_from
from jobs.store.transitions import move
from jobs.telemetry import get_logger
from worker.provider.line import AbortReason

BATCH = 200

log = get_logger(__name__)


def run_once(database: Database, announcer: Announcer, now: datetime, lane: str = "") -> int:
    """Expire what is overdue; returns how many jobs. A closed `lane` is named as what they waited for."""
    row = tables.jobs.c
    overdue = select(tables.jobs).where(row.completed_at.is_(None), row.deadline_at <= now)
    expired = 0
    while True:
        with database.read() as tx:
            batch = [job_from(each) for each in tx.execute(overdue.order_by(row.deadline_at).limit(BATCH)).mappings()]
            closed_for = read_lane(tx, lane).closed_for if batch else None
        for job in batch:
            message = "The response was not finished by its deadline."
            if job.error_message:
                message += f" The last attempt failed: {job.error_message}"
            elif job.waits_for is not None:
                message += f" It was waiting for '{job.waits_for}', which it follows."
            elif closed_for is not None and job.status is Status.QUEUED:
                message += f" No call was possible: the provider refuses this server's key or credit ({closed_for})."
            try:
                with database.begin() as tx:
                    move(
                        tx,
                        Verb.EXPIRE,
                        job,
                        now,
                        error_code=ERROR_CODES[ErrorKind.JOB_DEADLINE],
                        error_kind=job.error_kind or ErrorKind.JOB_DEADLINE,
                        error_message=message,
                    )
            except StaleJob:
                continue
            expired += 1
            log.info(Verb.EXPIRE, job_id=job.id, attempt=job.attempt)
            announcer.ended(job.id)
            announcer.stop(job.id, AbortReason.EXPIRED)
        if len(batch) < BATCH:
            return expired
