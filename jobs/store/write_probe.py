"""Checks whether the database takes writes, and if not, why: for readiness and `doctor`."""

import secrets
import sqlite3
from time import monotonic
from typing import Final

from sqlalchemy import delete, insert, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from jobs.ids import new_id
from jobs.store import schema
from jobs.store.connection_setup import WrongEncoding
from jobs.store.database import CommitUnknown, Database, database_now, is_locked, sqlstate_of
from jobs.store.sqlite_file import FileReplaced
from jobs.store.sqlite_writer import BUSY_ELSEWHERE

LIMIT_SECONDS: Final = 2.0
TRY_SECONDS: Final = 1.8
"""Limit of one write, so that its error is known within `LIMIT_SECONDS`."""
FRESH_SECONDS: Final = 0.5
SIZE: Final = 8_000
"""Bytes to write: enough to need a new page every few times, so that a full disk shows."""
_LOCK: Final = text(f"LOCK TABLE {', '.join(schema.metadata.tables)} IN ROW EXCLUSIVE MODE")
"""The lock that every write takes and any number of writers share, on every table: one of them may be locked."""
BY_STATEMENT: Final = "statement pooling"
"""Part of PgBouncer's message in that mode when a transaction begins. The SQLSTATE is that of all its refusals."""
_POSTGRES: Final = {
    "25006": "it takes no writes: it is a standby, or set to be read-only",
    "53100": "its disk is full",
    "53200": "its server is out of memory",
    "42501": "this role may not write to its tables",
    "57014": f"a write was not done within {LIMIT_SECONDS:g} s",
    "25P03": f"a write was not done within {LIMIT_SECONDS:g} s",
    "08P01": "a pooler refuses, as it cannot reach its server or takes no more clients; its log says why",
    BY_STATEMENT: "a pooler lends its sessions by the statement; it needs pool_mode = transaction, or session",
}
_SQLITE: Final = {
    sqlite3.SQLITE_BUSY: BUSY_ELSEWHERE.format(LIMIT_SECONDS),
    sqlite3.SQLITE_FULL: "its disk is full",
    sqlite3.SQLITE_READONLY: "its file, or the folder around it, cannot be written to",
    sqlite3.SQLITE_IOERR: "its disk fails to read or write",
    sqlite3.SQLITE_CORRUPT: "its file is damaged",
    sqlite3.SQLITE_CANTOPEN: "its file cannot be opened",
}
UNREACHABLE: Final = "it cannot be reached"
SILENT: Final = f"it does not answer within {LIMIT_SECONDS:g} s"
UNCONFIRMED: Final = (
    f"a commit was not confirmed within {LIMIT_SECONDS:g} s: its disk is too slow, or a synchronous standby is away"
)
TABLE_LOCKED: Final = "another session has locked a table"


def write_failure(database: Database) -> str | None:
    """Return the reason why a small write fails, in one clause; None if it commits within two seconds."""
    try:
        with database.begin(within=TRY_SECONDS) as tx:
            if not database.is_sqlite:
                tx.execute(_LOCK)
            name = new_id("probe")  # a row of its own, so that no two probes wait for each other
            row = {"name": name, "holder": secrets.token_hex(SIZE // 2), "expires_at": database_now(tx)}
            tx.execute(insert(schema.leases).values(row))
            tx.execute(delete(schema.leases).where(schema.leases.c.name == name))
    except SQLAlchemyError as error:
        return failure_reason(error)
    return None


def failure_reason(error: SQLAlchemyError | TimeoutError) -> str:
    """Return the reason for an error of the database, in one clause."""
    if isinstance(error, PoolTimeoutError):
        return str(error)
    if not isinstance(error, DBAPIError):
        return UNCONFIRMED if isinstance(error, CommitUnknown) else SILENT
    if isinstance(error, FileReplaced) or isinstance(error.orig, WrongEncoding):
        return str(error.orig)
    if is_locked(error):
        return TABLE_LOCKED
    if isinstance(error.orig, sqlite3.Error):
        code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF  # the low byte; the others are details
        return _SQLITE.get(code, f"it fails: {error.orig}")
    state = BY_STATEMENT if BY_STATEMENT in str(error.orig) else sqlstate_of(error)
    return _POSTGRES.get(state, f"it answers with SQLSTATE {state}" if state else UNREACHABLE)


class WriteProbe:
    """Keeps the result of a small write for a moment, as each is a commit and readiness may be asked at any rate."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._tried_at = float("-inf")
        self._reason: str | None = None

    def reason(self) -> str | None:
        """Return the reason why writes fail; None if they do not. Not thread-safe."""
        if monotonic() - self._tried_at > FRESH_SECONDS:
            self._reason = write_failure(self._database)
            self._tried_at = monotonic()
        return self._reason
