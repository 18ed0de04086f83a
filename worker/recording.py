"""Writing down what must not be forgotten: what a call or a delivery came to, however long the database is away."""

import time
from collections.abc import Callable
from itertools import chain, count, repeat
from typing import Final, TypeVar

from sqlalchemy import Connection

from jobs.store.database import DATABASE_ERRORS, WITHIN_SECONDS, Database
from jobs.telemetry import get_logger

PAUSES: Final = (0.1, 0.5, 1.0, 2.0, 5.0)
"""In seconds, between two tries; the last again and again."""

T = TypeVar("T")

log = get_logger(__name__)


def record(database: Database, write: Callable[[Connection], T], **facts: str) -> T:
    """Do `write` in a transaction until it is committed; it must bear being done again. `facts` go into the log."""
    pauses = chain(PAUSES, repeat(PAUSES[-1]))
    tries = count(1)
    while True:
        try:
            with database.begin(within=next(tries) * WITHIN_SECONDS) as tx:  # a large answer may take its time
                return write(tx)
        except DATABASE_ERRORS as error:
            log.warning("could not record, trying again", **facts, error=type(error).__name__)
            time.sleep(next(pauses))
