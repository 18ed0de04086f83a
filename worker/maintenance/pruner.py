"""Erases responses whose retention has run out; what they used stays in the ledger of attempts.

One that was not to be stored has minutes: its client has to fetch it, and a follow-up may be on its way. What an open
follow-up rests upon is spared until that has ended.
"""

from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, and_, false, select

from jobs.errors import StaleJob
from jobs.store import tables
from jobs.store.chains import still_needed
from jobs.store.database import Database
from jobs.store.rows import job_from
from jobs.store.transitions import erase
from jobs.store.unanswered import forget_unanswered
from jobs.store.workers import forget_ended

BATCH = 200
UNSTORED_FOR = timedelta(minutes=10)


def run_once(database: Database, now: datetime, retention: timedelta) -> int:
    """Erase what ended longer ago than `retention`, or than its client's `store: false` allows; returns how many."""
    row = tables.jobs.c
    erased = _erase_all(database, row.completed_at < now - retention)
    erased += _erase_all(database, and_(row.store == false(), row.completed_at < now - UNSTORED_FOR))
    with database.begin() as tx:
        forget_ended(tx, now)
        forget_unanswered(tx, now)
    return erased


def _erase_all(database: Database, ripe: ColumnElement[bool]) -> int:
    row = tables.jobs.c
    old = select(tables.jobs).where(ripe, row.id.not_in(still_needed())).order_by(row.completed_at).limit(BATCH)
    erased = 0
    while True:
        with database.begin() as tx:
            batch = [job_from(each) for each in tx.execute(old).mappings()]
            for job in batch:
                try:
                    erase(tx, job)
                except StaleJob:
                    continue
                erased += 1
        if len(batch) < BATCH:
            return erased
