"""Writing down what must not be forgotten: what a call or a delivery came to, however long the database is away."""

import time
from collections.abc import Callable
from itertools import chain, repeat
from typing import Final, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DataError

from jobs.store.database import DATABASE_ERRORS, TOGETHER_SECONDS, Database
from jobs.telemetry import get_logger

PAUSES: Final = (0.1, 0.5, 1.0, 2.0, 5.0)
"""In seconds, between two tries; the last again and again."""

LONGEST_TRY: Final = 240.0

T = TypeVar("T")

log = get_logger(__name__)


def record(database: Database, write: Callable[[Connection], T], **facts: str) -> T:
    """Do `write` in a transaction until it is committed; it must bear being done again. `facts` go into the log.

    A try whose time was too short is followed by one that may take twice as long: a large answer may need it, and a
    silent line must not be waited for longer than that.

    Raises:
        DataError: the database refuses what is to be written for what it is, now and ever.
    """
    pauses = chain(PAUSES, repeat(PAUSES[-1]))
    within = TOGETHER_SECONDS
    while True:
        began_at = time.monotonic()
        try:
            with database.begin(within=within) as tx:
                return write(tx)
        except DataError:
            raise
        except DATABASE_ERRORS as error:
            log.warning("could not record, trying again", **facts, error=type(error).__name__)
            took = time.monotonic() - began_at
            within = min(2 * within, LONGEST_TRY) if took >= within else TOGETHER_SECONDS
            time.sleep(next(pauses))
