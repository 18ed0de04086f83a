"""SQLite's one writer at a time, and the set-up of its connections.

Writers of this process queue on a lock, which yields under gevent and wakes them in order. The first of them polls for
the writers of other processes, as SQLite's own busy handler would block the whole process.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from time import monotonic, sleep
from typing import Any, Final

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from jobs.store.sqlite_file import SqliteFile

BUSY_SECONDS: Final = 30
BUSY_ELSEWHERE: Final = "another process has held its write lock for {:.0f} s"
BUSY_HERE: Final = "this process has itself been writing for {:g} s"
LONGEST_PAUSE: Final = 0.05
LOG_BYTES: Final = 64 * 1024 * 1024
"""Size to which the log is truncated once all of it is in the file. A long read may have let it grow."""
_PRAGMAS: Final = (*("foreign_keys=ON", "temp_store=MEMORY", "secure_delete=ON"), f"journal_size_limit={LOG_BYTES}")


class SqliteWriter:
    """The write lock of this process. Safe to share between threads and greenlets."""

    def __init__(self) -> None:
        self._lock = RLock()
        self._is_writing = False

    @contextmanager
    def take(self, within: float = BUSY_SECONDS) -> Iterator[None]:
        """Hold the lock. With `within` at `BUSY_SECONDS` or more, wait for it without a limit.

        Raises:
            PoolTimeoutError: the lock did not come free within `within` seconds.
        """
        if not self._lock.acquire(timeout=-1 if within >= BUSY_SECONDS else within):
            raise PoolTimeoutError((BUSY_HERE if self._is_writing else BUSY_ELSEWHERE).format(within))
        try:
            yield
        finally:
            self._is_writing = False
            self._lock.release()

    def write(self, connection: Connection, within: float) -> None:
        """Begin a transaction that holds SQLite's write lock. The caller must hold the lock of this process.

        Raises:
            OperationalError: another process held SQLite's lock throughout.
        """
        _take_write_lock(connection, min(within, BUSY_SECONDS))
        self._is_writing = True


def _take_write_lock(connection: Connection, within: float) -> None:
    driver: Any = connection.connection.dbapi_connection  # through SQLAlchemy this would begin a transaction of its own
    until = monotonic() + within
    pause = 0.001
    with busy_timeout(connection, 0):
        while True:
            try:
                driver.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if not _is_busy(error) or monotonic() > until:
                    raise OperationalError("BEGIN IMMEDIATE", None, error) from error
                sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                return


def _is_busy(error: sqlite3.OperationalError) -> bool:
    return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY  # the low byte; the others are details


@contextmanager
def busy_timeout(connection: Connection, seconds: float) -> Iterator[None]:
    """Let SQLite itself wait for other writers, which blocks the whole process under gevent."""
    driver: Any = connection.connection.dbapi_connection
    driver.execute(f"PRAGMA busy_timeout={seconds * 1000:.0f}")
    try:
        yield
    finally:
        driver.execute(f"PRAGMA busy_timeout={BUSY_SECONDS * 1000}")


def set_up(engine: Engine, file: SqliteFile | None, *, durable: bool) -> None:
    """Set up each new connection of the engine, and count it in `file` if the database has one."""
    synchronous = "FULL" if durable else "NORMAL"
    if file is not None:
        _watch(engine, file)

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # sqlite3's own implicit BEGIN would come too late
        _use_wal(connection)
        for pragma in (f"synchronous={synchronous}", *_PRAGMAS):
            connection.execute(f"PRAGMA {pragma}")


def _watch(engine: Engine, file: SqliteFile) -> None:
    event.listen(engine, "do_connect", lambda *_: file.connecting())
    event.listen(engine, "connect", lambda *_: file.connected())
    event.listen(engine, "close", lambda *_: file.closed())


def _use_wal(connection: sqlite3.Connection) -> None:
    """Set write-ahead logging. SQLite itself does not wait for the lock when it switches a new file to it."""
    until = monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if not _is_busy(error) or monotonic() > until:
                raise
            sleep(0.01)
        else:
            return
