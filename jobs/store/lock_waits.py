"""Finds the PostgreSQL sessions that block others: for the log while it happens, and for `doctor`.

Our own transactions wait for a lock for a second at most and try again, so the length of a single wait says little.
The age of the blocking session's transaction is reported instead.
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

CHECK_EVERY: Final = 1.0
WARN_EVERY: Final = 10.0

log = get_logger(__name__)


@dataclass(frozen=True)
class Blocker:
    """A session that blocks others. `seconds` is the age of its transaction, `waiting` the number it blocks now.

    `state` is PostgreSQL's own word, such as "idle in transaction". The statement is left out: it may hold a prompt.
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
        """Describe the session for an operator."""
        name = f"session {self.pid} ({self.application or 'unnamed'}, user {self.user}, from {self.client})"
        return f"{name}: {self.state} for {self.seconds:.0f} s, {self.waiting} waiting, tables: {self.tables or 'none'}"

    def facts(self) -> dict[str, object]:
        """Return the fields for the log."""
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


# Sessions that hold locks on our tables, and those that others wait for. A lock for reading is left out, as it blocks
# only changes of the table itself. A session that waits to make one is counted among those waiting.
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
    """Return the sessions that hold locks on our tables for over `longer_than` seconds, oldest transaction first.

    With `awaited`, return only those that others wait for. A role without `pg_monitor` sees no more than the process
    ids of other users' sessions.
    """
    found = [Blocker(**each) for each in tx.execute(_BLOCKERS, {"seconds": longer_than}).mappings()]
    return [each for each in found if each.waiting or not awaited]


class LockWatch:
    """Logs a warning about the sessions that block this process, on a connection of its own."""

    def __init__(self, url: URL, connect_args: Mapping[str, Any]) -> None:
        self._url = url
        self._connect_args = {**connect_args}
        self._guard = Lock()
        self._checked_at = float("-inf")
        self._warned_at: dict[int, float] = {}
        self._is_stopped = False

    def check_soon(self) -> None:
        """Check in a thread which sessions block others, unless that was done just now."""
        with self._guard:
            if self._is_stopped or monotonic() - self._checked_at < CHECK_EVERY:
                return
            self._checked_at = monotonic()
        Thread(target=self._check, name="lock watch", daemon=True).start()

    def stop(self) -> None:
        """Check no more."""
        self._is_stopped = True

    def _check(self) -> None:
        # not from the pool: all of its connections may be waiting
        engine = create_engine(self._url, poolclass=NullPool, connect_args=self._connect_args, hide_parameters=True)
        with suppress(SQLAlchemyError), engine.connect() as connection:  # the waiting transactions fail by themselves
            for each in blockers(connection, 0.0, awaited=True):
                if monotonic() - self._warned_at.get(each.pid, float("-inf")) >= WARN_EVERY:
                    self._warned_at[each.pid] = monotonic()
                    log.warning("session blocks others", **each.facts())
        engine.dispose()
