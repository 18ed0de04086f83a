"""Checks of a database that answers: its locks, its connections, and a pooler in front of it."""

from collections.abc import Iterator, Sequence
from typing import Final

from sqlalchemy import Connection, text

from cli.doctor.result import CheckResult, failed, passed, warning
from jobs.database_url import THRESHOLD_IN_URL
from jobs.store.connection_pool import API_CONNECTIONS, OUTSIDE_POOL, WORKER_CONNECTIONS
from jobs.store.connection_setup import IS_POOLED
from jobs.store.database import Database, database_now
from jobs.store.lock_waits import blockers
from jobs.store.undelivered_creates import live_processes
from jobs.store.workers import WorkerRow

PREPARED: Final = f"statements are prepared on it, as {THRESHOLD_IN_URL} asks"
LONG_SECONDS: Final = 5.0
_ALLOWED: Final = text(
    "SELECT least("
    " current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int"
    " - coalesce(current_setting('reserved_connections', true)::int, 0),"
    " (SELECT nullif(rolconnlimit, -1) FROM pg_roles WHERE rolname = current_user),"
    " (SELECT nullif(datconnlimit, -1) FROM pg_database WHERE datname = current_database()))"
)


def check_locks(database: Database) -> Iterator[CheckResult]:
    """Report sessions that have held locks in one transaction for more than five seconds."""
    if database.is_sqlite:
        return
    with database.read(within=LONG_SECONDS) as tx:
        found = blockers(tx, LONG_SECONDS, awaited=False)
    for each in found:
        hint = f"end its transaction, or the session: SELECT pg_terminate_backend({each.pid})"
        yield (failed if each.waiting else warning)("locks", str(each), hint)
    if not found:
        yield passed("locks", f"no transaction has held any for {LONG_SECONDS:g} s")


def check_connections(tx: Connection, workers: Sequence[WorkerRow]) -> Iterator[CheckResult]:
    """Compare the connections that the live processes may open with those that server, role and database allow."""
    if tx.dialect.name == "sqlite":
        return
    allowed: int = tx.execute(_ALLOWED).scalar_one()
    apis = len(live_processes(tx, database_now(tx)))
    needed = len(workers) * (WORKER_CONNECTIONS + OUTSIDE_POOL) + apis * (API_CONNECTIONS + OUTSIDE_POOL)
    message = f"{apis} API processes and {len(workers)} workers may open {needed} connections, {allowed} are allowed"
    if needed > allowed:
        yield warning("connections", message, f"raise max_connections, or the role's limit, to at least {needed}")
    else:
        yield passed("connections", message)


def check_pooler(tx: Connection, database: Database) -> Iterator[CheckResult]:
    """Report a pooler in transaction mode, and whether statements are prepared on it."""
    if not tx.info.get(IS_POOLED):
        return
    prepared = "nothing is prepared on it" if THRESHOLD_IN_URL not in database.url.query else PREPARED
    yield passed("pooler", f"there is one in transaction mode; {prepared}. Its own client limit applies as well")
