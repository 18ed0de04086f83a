"""Duties over many rows: all of them in one transaction, and each by itself where that fails for a lock.

Rows that another session has locked are passed over by the statements themselves. What is left are the rows beside
them, such as the endpoint that is to be told of a job's end: whoever holds one of those is to hold up that job alone.
"""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Final, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from jobs.store.database import Database, database_now, is_locked
from jobs.store.workers import take_lease
from jobs.telemetry import get_logger

T = TypeVar("T")

LEASE_SECONDS: Final = 2.0
"""Within which a lease is taken, or asked for again. Where the connections of all workers go silent at once, each of
them may be asking for it, and nobody would do anything for as long as any transaction may take."""

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
            with database.begin(hurried=True) as tx:
                done.append(do(tx, each))
        except DBAPIError as error:
            if not is_locked(error):
                raise
            log.warning("left for later, another session holds its lock", id=each)
    return done


def holds_lease(database: Database, name: str, holder: str, length: timedelta) -> bool:
    """Whether the lease called `name` is ours, or is locked so that nobody can have it.

    A lease only spares work: what it is for is guarded by itself, and must not stand still with it.
    """
    try:
        with database.begin(within=LEASE_SECONDS) as tx:
            return take_lease(tx, name, holder, database_now(tx), length)
    except DBAPIError as error:
        if not is_locked(error):
            raise
        log.warning("going on without a lease, another session holds its lock", lease=name)
        return True
