"""Commits what must not be lost, such as the outcome of a call or of a delivery, however long the database is away."""

import time
from collections.abc import Callable
from itertools import chain, repeat
from typing import Final, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DataError

from jobs.store.database import DATABASE_ERRORS, TOGETHER_SECONDS, Database
from jobs.telemetry import get_logger

PAUSES: Final = (0.1, 0.5, 1.0, 2.0, 5.0)
"""Seconds between two tries. The last one repeats."""

LONGEST_TRY: Final = 240.0

T = TypeVar("T")

log = get_logger(__name__)


def commit_with_retry(database: Database, write: Callable[[Connection], T], **facts: str) -> T:
    """Run `write` in a transaction until it is committed, and return its result.

    `write` may run more than once, even after a commit whose confirmation was lost. `facts` are logged. A try that ran
    out of time is followed by one with twice the time: a large answer may need it. Without that, the first limit holds,
    so that a silent connection delays nothing for longer.

    Raises:
        DataError: the database refuses the values themselves, so another try cannot help.
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
