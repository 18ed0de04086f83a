"""Sessions that lock rows which jobs need, as a forgotten transaction, a report or a dead host would.

They connect to PostgreSQL directly, so that faults of the proxies do not touch them.
"""

import random
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, LiteralString

import psycopg

HELD: Final[Mapping[str, LiteralString]] = {
    "jobs": "SELECT id FROM jobs WHERE id IN (SELECT id FROM jobs WHERE status IN ('queued', 'in_progress')"
    " ORDER BY random() LIMIT %(most)s) FOR UPDATE SKIP LOCKED",
    "calls": "SELECT id FROM jobs WHERE status = 'in_progress' AND worker_id IN"
    " (SELECT id FROM workers WHERE pid = %(pid)s AND ended_at IS NULL) FOR UPDATE SKIP LOCKED",
    "key": "SELECT id FROM api_keys WHERE id = %(key)s FOR UPDATE",
    "worker": "SELECT id FROM workers WHERE ended_at IS NULL LIMIT 1 FOR UPDATE SKIP LOCKED",
    "leases": "SELECT name FROM leases FOR UPDATE",
    "limits": "SELECT name FROM provider_limits FOR UPDATE",
    "installation": "SELECT namespace FROM installation FOR UPDATE",
}
"""Locking queries by name; `calls` are the jobs that one worker runs."""
ALWAYS_WRITES: Final = "-c default_transaction_read_only=off"
"""Session options that allow writes on a demoted database, so that a fault can be undone."""
MOST_JOBS: Final = 12
BUSY_FOR: Final = 0.25
_NOTHING: Final = {"pid": 0, "key": "", "most": 0}


@dataclass(frozen=True)
class Lock:
    """Rows that a session locked, by id or name, from `begun` to `ended` in unix time."""

    what: str
    rows: frozenset[str]
    begun: float
    ended: float


class Locker:
    """Opens locking sessions; `locks` lists those that have ended."""

    def __init__(self, database_url: str) -> None:
        self._url = database_url.replace("+psycopg", "")
        self.locks: list[Lock] = []

    @contextmanager
    def holding(self, what: str, rng: random.Random, **parameters: Any) -> Iterator["Held"]:
        """Hold the rows until the block ends, by a rollback, a commit or a closed connection.

        Raises:
            psycopg.OperationalError: the database is away.
        """
        most = rng.randint(1, MOST_JOBS)
        begun = time.time()
        session = psycopg.connect(self._url, connect_timeout=3, application_name="somebody", options=ALWAYS_WRITES)
        rows: frozenset[str] = frozenset()
        try:
            session.execute("SET LOCAL lock_timeout = '3s'")
            found = session.execute(HELD[what], {**_NOTHING, "most": most, **parameters}).fetchall()
            rows = frozenset(str(row[0]) for row in found)
            yield Held(session, rows)
            rng.choice((session.rollback, session.commit, session.close))()
        finally:
            session.close()
            self.locks.append(Lock(what, rows, begun, time.time()))


@dataclass(frozen=True)
class Held:
    """A session and the rows that it holds."""

    session: psycopg.Connection[Any]
    rows: frozenset[str]

    def stay(self, seconds: float, wait: threading.Event, *, is_busy: bool) -> None:
        """Keep the transaction open, idle or busy, until `wait` returns."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not wait.is_set():
            if is_busy:
                self.session.execute("SELECT pg_sleep(%s)", (min(left, BUSY_FOR),))
            else:
                wait.wait(left)
