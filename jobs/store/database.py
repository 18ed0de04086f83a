"""One database, two kinds of transaction: `begin` to write, `read` to look.

SQLite (the embedded default) has one writer at a time. Writers of this process queue on a lock of ours, which
yields under gevent and wakes in order; writers of other processes wait in SQLite's busy handler. Every write
transaction takes the write lock at once (`BEGIN IMMEDIATE`), so none fails halfway for having read first.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock, RLock
from time import monotonic, sleep
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, event, func, make_url, select
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, InvalidatePoolError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import ConnectionPoolEntry

DATABASE_ERRORS = (DBAPIError, PoolTimeoutError)
"""What a transaction raises while the database is away, or has no connection to spare."""
SQLITE_BUSY_SECONDS = 30
TRUNCATING_SECONDS: Final = 0.25
"""How long readers of an old state are waited for, as writers wait meanwhile."""
PREPARE_THRESHOLD = 2
IDLE_SECONDS = 1.0
# A server that is gone without a word is noticed within a minute, also in the midst of a transaction.
KEEPALIVE = {
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,  # in milliseconds
}
_USED_AT = "backburner_used_at"


class Database:
    """The engine and how to open transactions on it. Safe to share between threads and greenlets."""

    def __init__(self, url: str, *, pool_size: int = 20, durable: bool = True) -> None:
        """Connect lazily to `url`; at most `pool_size` connections are open at once.

        Not `durable` is for what may be lost with the machine: a commit then does not wait for the disk.
        """
        self.url = make_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        options: dict[str, Any] = {"pool_size": pool_size, "max_overflow": 0, "pool_timeout": 60}
        options["hide_parameters"] = True  # an error must not carry a prompt into a log
        if self.is_sqlite:
            if self.url.database and self.url.database != ":memory:":
                Path(self.url.database).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            options["connect_args"] = {"timeout": SQLITE_BUSY_SECONDS, "check_same_thread": False}
        else:
            options["connect_args"] = {
                "connect_timeout": 10,
                "prepare_threshold": PREPARE_THRESHOLD,
                "application_name": "backburner",
                **KEEPALIVE,
            }
            if not durable:
                options["connect_args"]["options"] = "-c synchronous_commit=off"
        self.engine = create_engine(self.url, **options)
        self._truncating = Lock()
        self._truncated_at = 0.0
        self._writers: AbstractContextManager[Any] = RLock() if self.is_sqlite else nullcontext()
        if self.is_sqlite:
            _set_up_sqlite(self.engine, durable=durable)
        else:
            _ask_idle_connections(self.engine)

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """A write transaction: committed at the end of the block, rolled back when it raises."""
        with self._writers, self.engine.connect() as connection, connection.begin():
            if self.is_sqlite:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            else:
                _commit_each_statement(connection, wanted=False)
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection for reads; each statement sees what is committed when it begins."""
        with self.engine.connect() as connection:
            if not self.is_sqlite:
                _commit_each_statement(connection, wanted=True)
            yield connection

    def not_durable(self) -> "Database":
        """One more connection to the same database, whose commits do not wait for the disk."""
        other = Database(self.url.render_as_string(hide_password=False), pool_size=1, durable=False)
        other._writers = self._writers  # it queues with our own writers, not behind them
        return other

    def forget_erased(self) -> bool:
        """Let nothing of what has been deleted stay in the files; False if somebody reads an older state just now.

        SQLite overwrites what it deletes, but its log still holds the pages as they were. On PostgreSQL it is for the
        server's own vacuum to do. Those who ask at the same time share one truncation.
        """
        if not self.is_sqlite:
            return True
        asked_at = monotonic()
        with self._truncating:
            if self._truncated_at > asked_at:
                return True
            began_at = monotonic()
            if not self._truncate_log():
                return False
            self._truncated_at = began_at
            return True

    def _truncate_log(self) -> bool:
        with self._writers, self.engine.connect() as connection:
            connection.exec_driver_sql(f"PRAGMA busy_timeout={TRUNCATING_SECONDS * 1000:.0f}")
            try:
                busy, *_ = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()
            except OperationalError:  # a writer of another process held the lock for all that time
                return False
            finally:
                connection.exec_driver_sql(f"PRAGMA busy_timeout={SQLITE_BUSY_SECONDS * 1000}")
            return not busy

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()


def _commit_each_statement(connection: Connection, *, wanted: bool) -> None:
    """What SQLAlchemy calls the isolation level AUTOCOMMIT; its own way there and back is a quarter of a short read."""
    driver: Any = connection.connection.dbapi_connection
    if driver.autocommit is not wanted:
        driver.autocommit = wanted


def _ask_idle_connections(engine: Engine) -> None:
    """Before a connection is used that was idle for a while, ask whether it still stands; a busy one is not asked.

    SQLAlchemy's own `pool_pre_ping` asks every time, which doubles what a short read costs. What breaks between two
    uses within `IDLE_SECONDS` breaks a transaction as it would have in its midst.
    """

    @event.listens_for(engine, "checkin")
    def _came_back(_connection: object, record: ConnectionPoolEntry) -> None:
        record.info[_USED_AT] = monotonic()

    @event.listens_for(engine, "checkout")
    def _goes_out(connection: DBAPIConnection, record: ConnectionPoolEntry, _proxy: object) -> None:
        if monotonic() - record.info.get(_USED_AT, monotonic()) < IDLE_SECONDS:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise InvalidatePoolError from error


def _set_up_sqlite(engine: Engine, *, durable: bool) -> None:
    synchronous = "FULL" if durable else "NORMAL"

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # sqlite3's own implicit BEGIN would come too late
        _keep_a_log(connection)
        for pragma in (f"synchronous={synchronous}", "foreign_keys=ON", "temp_store=MEMORY", "secure_delete=ON"):
            connection.execute(f"PRAGMA {pragma}")


def _keep_a_log(connection: sqlite3.Connection) -> None:
    """Set write-ahead logging. For a new file, which is switched to it, SQLite itself does not wait for a lock."""
    until = monotonic() + SQLITE_BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or monotonic() > until:
                raise
            sleep(0.01)
        else:
            return


def database_now(tx: Connection) -> datetime:
    """The database's clock: the one clock that all processes on all machines agree on."""
    if tx.dialect.name == "sqlite":
        return datetime.now(UTC)  # one file, one machine, one clock
    moment: datetime = tx.execute(_CLOCK).scalar_one()
    return moment.astimezone(UTC)


_CLOCK: Final = select(func.clock_timestamp())


def database_clock(tx: Connection) -> Any:
    """The same clock as a value to be written, which costs no question of its own."""
    return datetime.now(UTC) if tx.dialect.name == "sqlite" else func.clock_timestamp()
