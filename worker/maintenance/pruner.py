"""Erases responses whose retention has run out. Their usage stays in the attempts.

A response with `store: false` is kept for some minutes: its client has to fetch it, and may be sending a follow-up.
Responses that an open follow-up continues are kept until that has ended.
"""

from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import ColumnElement, and_, false

from jobs.store import schema
from jobs.store.conversations import still_needed
from jobs.store.database import Database
from jobs.store.jobs import erase_ripe
from jobs.store.undelivered_creates import prune_undelivered_creates
from jobs.store.usage_rollup import add_up
from jobs.store.workers import prune_workers
from jobs.telemetry import get_logger

log = get_logger(__name__)

BATCH: Final = 500
"""Responses erased by one transaction and in one run, so that other tasks run in between."""
UNSTORED_FOR = timedelta(minutes=10)


def run_once(database: Database, now: datetime, retention: timedelta) -> int:
    """Erase responses that ended longer ago than `retention`, or than `store: false` allows.

    Return the greater of the two counts. Below `BATCH` nothing is left.
    """
    row = schema.jobs.c
    kept = _erase(database, row.completed_at < now - retention)
    unstored = _erase(database, and_(row.store == false(), row.completed_at < now - UNSTORED_FOR))
    with database.begin() as tx:
        prune_workers(tx, now)
        prune_undelivered_creates(tx, now)
    if not database.purge_deleted():
        log.info("erased text stays in the log until the next time")
    return max(kept, unstored)


def add_up_attempts(database: Database, now: datetime, kept: timedelta) -> int:
    """Add up attempts of erased responses that began longer ago than `kept`. Return how many."""
    with database.begin() as tx:
        return add_up(tx, now - kept, BATCH)


def _erase(database: Database, ripe: ColumnElement[bool]) -> int:
    with database.begin() as tx:
        return erase_ripe(tx, and_(ripe, schema.jobs.c.id.not_in(still_needed())), BATCH)
