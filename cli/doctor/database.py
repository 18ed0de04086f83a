"""What `doctor` looks at in a database that answers: locks, connections and a pooler."""

from collections.abc import Iterator, Sequence
from typing import Final

from sqlalchemy import Connection, text

from cli.doctor.result import Finding, bad, doubtful, good
from jobs.database_url import THRESHOLD_IN_URL
from jobs.store.connection_pool import API_CONNECTIONS, BESIDE_POOL, WORKER_CONNECTIONS
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


def check_locks(database: Database) -> Iterator[Finding]:
    """Sessions in whose way others are, or may come: in a transaction with locks for more than five seconds."""
    if database.is_sqlite:
        return
    with database.read(within=LONG_SECONDS) as tx:
        found = blockers(tx, LONG_SECONDS, awaited=False)
    for each in found:
        hint = f"end its transaction, or the session: SELECT pg_terminate_backend({each.pid})"
        yield (bad if each.waiting else doubtful)("locks", str(each), hint)
    if not found:
        yield good("locks", f"no transaction has held any for {LONG_SECONDS:g} s")


def check_connections(tx: Connection, workers: Sequence[WorkerRow]) -> Iterator[Finding]:
    """What the processes that run may open, against what server, role and database allow."""
    if tx.dialect.name == "sqlite":
        return
    allowed: int = tx.execute(_ALLOWED).scalar_one()
    apis = len(live_processes(tx, database_now(tx)))
    needed = len(workers) * (WORKER_CONNECTIONS + BESIDE_POOL) + apis * (API_CONNECTIONS + BESIDE_POOL)
    counted = f"{apis} API processes and {len(workers)} workers may open {needed} connections, {allowed} are allowed"
    if needed > allowed:
        yield doubtful("connections", counted, f"raise max_connections, or the limit of the role, to {needed} and more")
    else:
        yield good("connections", counted)


def check_pooler(tx: Connection, database: Database) -> Iterator[Finding]:
    """Whether a pooler stands in between that lends a session for a transaction, and what follows."""
    if not tx.info.get(IS_POOLED):
        return
    prepared = "nothing is prepared on it" if THRESHOLD_IN_URL not in database.url.query else PREPARED
    yield good("pooler", f"one lends its sessions by the transaction; {prepared}. Its own limit of clients counts too")
