"""Which sessions of PostgreSQL hold up others: for the log while it happens, and for `doctor`.

Our own transactions wait for a lock for a second at most and try again, so a wait is not the same as its waiter: what
counts is how long the session has been in its transaction that others wait for.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock, Thread
from time import monotonic
from typing import Any, Final

from sqlalchemy import URL, Connection, create_engine, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from jobs.telemetry import get_logger

LOOK_EVERY: Final = 1.0
WARN_EVERY: Final = 10.0

log = get_logger(__name__)


@dataclass(frozen=True)
class Blocker:
    """A session that others wait for. `seconds` is the age of its transaction, `waiting` how many wait for it now.

    `state` is PostgreSQL's own word, such as "idle in transaction". Its statement is not here, as it may hold a prompt.
    """

    pid: int
    user: str
    application: str
    client: str
    state: str
    seconds: float
    waiting: int
    tables: str

    def __str__(self) -> str:
        """For a person."""
        who = f"session {self.pid} ({self.application or 'unnamed'}, user {self.user}, from {self.client})"
        return f"{who}: {self.state} for {self.seconds:.0f} s, {self.waiting} waiting, tables: {self.tables or 'none'}"

    def facts(self) -> dict[str, object]:
        """For the log."""
        return {
            "pid": self.pid,
            "user": self.user,
            "application": self.application,
            "client": self.client,
            "state": self.state,
            "seconds": round(self.seconds, 1),
            "waiting": self.waiting,
            "tables": self.tables,
        }


# Holders of locks on tables of this database, and of what others wait for; a lock that only reads is in nobody's way
# but of one who changes the table itself, who then waits.
_BLOCKERS: Final = text("""
WITH waits AS (
    SELECT unnest(pg_blocking_pids(pid)) AS pid, count(*) AS waiting FROM pg_stat_activity
    WHERE wait_event_type = 'Lock' AND datname = current_database() GROUP BY 1
), held AS (
    SELECT lock.pid, string_agg(DISTINCT class.relname, ', ' ORDER BY class.relname) AS tables
    FROM pg_locks AS lock JOIN pg_class AS class ON class.oid = lock.relation
    WHERE lock.granted AND lock.mode <> 'AccessShareLock' AND class.relkind IN ('r', 'p')
    AND class.relnamespace = current_schema()::regnamespace
    AND lock.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    GROUP BY 1
)
SELECT session.pid, coalesce(session.usename, '') AS user, coalesce(session.application_name, '') AS application,
    coalesce(host(session.client_addr), 'the server itself') AS client, coalesce(session.state, 'unknown') AS state,
    coalesce(extract(epoch FROM clock_timestamp() - session.xact_start), 0)::float AS seconds,
    coalesce(waits.waiting, 0)::int AS waiting, coalesce(held.tables, '') AS tables
FROM pg_stat_activity AS session LEFT JOIN waits ON waits.pid = session.pid LEFT JOIN held ON held.pid = session.pid
WHERE session.pid <> pg_backend_pid() AND (waits.waiting > 0 OR held.tables IS NOT NULL)
AND coalesce(clock_timestamp() - session.xact_start >= make_interval(secs => :seconds), waits.waiting > 0)
ORDER BY session.xact_start
""")


def blockers(tx: Connection, longer_than: float, *, awaited: bool) -> list[Blocker]:
    """Sessions that hold locks on our tables for longer than so many seconds, oldest first; or only those `awaited`.

    Who may not see other users' sessions (a role without `pg_monitor`) is told their process ids alone.
    """
    found = [Blocker(**each) for each in tx.execute(_BLOCKERS, {"seconds": longer_than}).mappings()]
    return [each for each in found if each.waiting or not awaited]


class LockWatch:
    """Warns of the sessions that hold up this process, once in a while, on a connection of its own."""

    def __init__(self, url: URL, connect_args: Mapping[str, Any]) -> None:
        self._url = url
        self._connect_args = {**connect_args}
        self._guard = Lock()
        self._looked_at = float("-inf")
        self._warned_at: dict[int, float] = {}
        self._is_stopped = False

    def look_soon(self) -> None:
        """Look who holds up others, unless somebody looked just now."""
        with self._guard:
            if self._is_stopped or monotonic() - self._looked_at < LOOK_EVERY:
                return
            self._looked_at = monotonic()
        Thread(target=self._look, name="lock watch", daemon=True).start()

    def stop(self) -> None:
        """Look no more."""
        self._is_stopped = True

    def _look(self) -> None:
        # not out of the pool, all of which may be waiting
        engine = create_engine(self._url, poolclass=NullPool, connect_args=self._connect_args, hide_parameters=True)
        with suppress(SQLAlchemyError), engine.connect() as connection:  # whoever waits is told of it all the same
            for each in blockers(connection, 0.0, awaited=True):
                if monotonic() - self._warned_at.get(each.pid, float("-inf")) >= WARN_EVERY:
                    self._warned_at[each.pid] = monotonic()
                    log.warning("a session holds up others", **each.facts())
        engine.dispose()
