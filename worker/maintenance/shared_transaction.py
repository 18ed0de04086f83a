"""Duties over many rows: all of them in one transaction, and each by itself where that fails for a lock.

Rows that another session has locked are passed over by the statements themselves. What is left are the rows beside
them, such as the endpoint that is to be told of a job's end: whoever holds one of those is to hold up that job alone.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from jobs.store.database import Database, is_locked
from jobs.telemetry import get_logger

T = TypeVar("T")

log = get_logger(__name__)


def all_or_each(
    database: Database,
    do: Callable[[Connection, str | None], T],
    find: Callable[[Connection], Sequence[str]],
) -> list[T]:
    """What `do` returned in each transaction that was committed.

    It is called once for all, with None, and if that fails for a lock, for each of the ids that `find` returns.
    """
    try:
        with database.begin() as tx:
            return [do(tx, None)]
    except DBAPIError as error:
        if not is_locked(error):
            raise
    with database.read() as tx:
        ids = find(tx)
    done = []
    for each in ids:
        try:
            with database.begin(brief_lock_wait=True) as tx:
                done.append(do(tx, each))
        except DBAPIError as error:
            if not is_locked(error):
                raise
            log.warning("left for later, another session holds its lock", id=each)
    return done
