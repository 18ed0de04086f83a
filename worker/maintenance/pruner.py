"""Erases responses whose retention has run out; what they used stays in the ledger of attempts."""

from datetime import datetime, timedelta

from sqlalchemy import select

from jobs.errors import StaleJob
from jobs.store import tables
from jobs.store.database import Database
from jobs.store.rows import job_from
from jobs.store.transitions import erase
from jobs.store.workers import forget_ended

BATCH = 200


def run_once(database: Database, now: datetime, retention: timedelta) -> int:
    """Erase what ended longer ago than `retention`; returns how many responses."""
    row = tables.jobs.c
    old = select(tables.jobs).where(row.completed_at < now - retention).order_by(row.completed_at).limit(BATCH)
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
            forget_ended(tx, now)
        if len(batch) < BATCH:
            return erased
