"""Erases responses whose retention has run out; what they used stays in the ledger of attempts.

One that was not to be stored has minutes: its client has to fetch it, and a follow-up may be on its way. What an open
follow-up rests upon is spared until that has ended.
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
"""So many go in one transaction, and in one go: other duties have their turn before the next."""
UNSTORED_FOR = timedelta(minutes=10)


def run_once(database: Database, now: datetime, retention: timedelta) -> int:
    """Erase what ended longer ago than `retention`, or than its client's `store: false` allows.

    Returns how many of the kind that had more: below `BATCH` it was all there was.
    """
    row = schema.jobs.c
    kept = _erase(database, row.completed_at < now - retention)
    unstored = _erase(database, and_(row.store == false(), row.completed_at < now - UNSTORED_FOR))
    with database.begin() as tx:
        prune_workers(tx, now)
        prune_undelivered_creates(tx, now)
    if not database.forget_erased():
        log.info("erased text stays in the log until the next time")
    return max(kept, unstored)


def add_up_attempts(database: Database, now: datetime, kept: timedelta) -> int:
    """Add up what is left of responses erased long ago, and whose attempts began longer ago than `kept`; how many."""
    with database.begin() as tx:
        return add_up(tx, now - kept, BATCH)


def _erase(database: Database, ripe: ColumnElement[bool]) -> int:
    with database.begin() as tx:
        return erase_ripe(tx, and_(ripe, schema.jobs.c.id.not_in(still_needed())), BATCH)
