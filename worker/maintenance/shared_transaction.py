"""Changes of many rows: in one transaction, or row by row if a lock makes that fail.

The statements themselves skip rows that another session has locked. Rows beside them, such as the webhook endpoint of a
job, may be locked too. Such a lock must delay only the job that it belongs to.
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
    database: Database, do: Callable[[Connection, str | None], T], find: Callable[[Connection], Sequence[str]]
) -> list[T]:
    """Return what `do` returned in each transaction that was committed.

    `do` is called once for all rows, with None. If a lock makes that fail, it is called for each id from `find`.
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
