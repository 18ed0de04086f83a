"""The database and its transactions: `begin` to write, `read` to read.

SQLite (the embedded default) has one writer at a time. A write transaction waits for the process's writers before it
(`SqliteWriter`) and takes the write lock at once (`BEGIN IMMEDIATE`), so none fails halfway for having read first.

On PostgreSQL every write transaction sets its own limits in its first round trip, so that a held lock cannot block all
others behind it. A pooler in transaction mode passes them on like any statement. See decision 0011.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import Any, Final, cast

from sqlalchemy import Connection, ExceptionContext, RootTransaction, create_engine, event, func, make_url, select
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import ConnectionPoolEntry

from jobs.clock import Clock, elapsed, host_now
from jobs.database_url import THRESHOLD_IN_URL, prepare_threshold
from jobs.store.connection_pool import WORKER_CONNECTIONS, SharingPool
from jobs.store.connection_setup import BEGIN_ALSO, NewConnections, WrongEncoding
from jobs.store.lock_waits import LockWatch
from jobs.store.sqlite_clock import StoredClock
from jobs.store.sqlite_file import SqliteFile
from jobs.store.sqlite_writer import BUSY_SECONDS, SqliteWriter, busy_timeout, set_up
from jobs.store.statement_timeouts import ConnectionUse, StatementTimeouts


class CommitUnknown(SQLAlchemyError):
    """A COMMIT was not answered: the transaction may have been committed, or may still be."""


DATABASE_ERRORS = (DBAPIError, PoolTimeoutError, CommitUnknown)
"""Errors of a transaction while the database is unavailable, or no connection is free."""
LOCK_ERRORS: Final = ("55P03", "40P01")
"""SQLSTATEs of a lock timeout and of a deadlock: nothing was written."""
IDLE_IN_TRANSACTION: Final = "25P03"
"""SQLSTATE of a session that the server ended for being idle in a transaction, which was rolled back."""
NOT_PRIMARY: Final = ("25006", "57P01", "57P02", "57P03")
"""SQLSTATEs of a server that is read-only, as after a demotion, and of one that shuts down or starts."""
CONNECTION_ERRORS: Final = "08"
WITHIN_SECONDS: Final = 30.0
"""Default limit of a write transaction, or of the reads on one connection."""
READ_SECONDS: Final = 8.0
"""Limit of small reads that serve many callers at once."""
TOGETHER_SECONDS: Final = 8.0
"""Limit of a transaction shared by many, after which each is done by itself."""
PING_SECONDS: Final = 2.0
CONNECT_SECONDS: Final = 4
POOL_SECONDS: Final = 10
TRUNCATED_AGAIN_AFTER: Final = 1.0
TRUNCATING_SECONDS: Final = 0.25
"""Time for which truncating waits for readers of an old state. Writers are blocked meanwhile."""
CLOCK: Final = "backburner_clock"
IN_MEMORY: Final = (None, "", ":memory:")
BEGIN: Final = (
    "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = '{}'; "
    "SET LOCAL idle_in_transaction_session_timeout = '5s'"
)
"""Sent as one message, so the limits cost no round trip."""
LONG_LOCK_WAIT, BRIEF_LOCK_WAIT = BEGIN.format("1s"), BEGIN.format("50ms")
NOT_DURABLE: Final = "; SET LOCAL synchronous_commit = off"
# A server that is gone without closing its connections is noticed within ten seconds, also during a transaction.
CONNECT_DEFAULTS: Final = {
    "application_name": "backburner",
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 2,
    "tcp_user_timeout": 9_000,  # in milliseconds
}
"""Connection parameters unless the URL sets them."""


class Database:
    """An engine and its transactions. Safe to share between threads and greenlets."""

    def __init__(
        self, url: str, *, pool_size: int = WORKER_CONNECTIONS, durable: bool = True, clock: Clock | None = None
    ) -> None:
        """Connect to `url` at the first use. At most `pool_size` connections are open at once.

        Unless `durable`, a commit does not wait for the disk, and may be lost if the machine fails.
        """
        self.clock = clock or Clock()
        self._stored_clock = StoredClock(self.clock)  # of SQLite
        self.url = make_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._path = Path(self.url.database) if self.is_sqlite and self.url.database not in IN_MEMORY else None
        options: dict[str, Any] = {"pool_size": pool_size, "pool_timeout": POOL_SECONDS}
        options["hide_parameters"] = True  # an error must not carry a prompt into a log
        if self.is_sqlite:
            if self._path is not None:
                self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            options |= {"max_overflow": 0, "pool_timeout": 2 * BUSY_SECONDS}  # a writer waits up to BUSY_SECONDS
            options["connect_args"] = {"timeout": BUSY_SECONDS, "check_same_thread": False}
        else:
            options["poolclass"] = SharingPool
            options["connect_args"] = {
                "connect_timeout": CONNECT_SECONDS,
                "prepare_threshold": prepare_threshold(self.url),
                "client_encoding": "utf8",  # a role may have another default
                "autocommit": True,  # transactions begin with our own BEGIN
                **{name: value for name, value in CONNECT_DEFAULTS.items() if name not in self.url.query},
            }
        driver_url = self.url.difference_update_query([THRESHOLD_IN_URL])  # the driver would take it as text
        self.engine = create_engine(driver_url, execution_options={CLOCK: self.clock}, **options)
        self._truncating = Lock()
        self._truncated_at = 0.0
        self._writer = SqliteWriter()  # of SQLite
        self._file = self._own_file = SqliteFile(self._path) if self._path is not None else None
        self._begin_also = "" if durable else NOT_DURABLE
        self._lock_watch = LockWatch(driver_url, options["connect_args"])
        self._timeouts = StatementTimeouts(self._lock_watch.check_soon)
        if self.is_sqlite:
            set_up(self.engine, self._file, durable=durable)
        else:
            self._set_up_pool()

    def _set_up_pool(self) -> None:
        pool, dialect = cast("SharingPool", self.engine.pool), self.engine.dialect

        def ping(driver: Any) -> None:
            use = self._timeouts.begin(driver, PING_SECONDS, max_wait=0)
            try:
                dialect.do_ping(driver)
            finally:
                self._timeouts.end(use)

        pool.ping, pool.errors = ping, (dialect.loaded_dbapi.Error,)
        new_connections = NewConnections(self.url)

        def prepare(driver: Any, record: ConnectionPoolEntry) -> None:
            use = self._timeouts.begin(driver, CONNECT_SECONDS, max_wait=0)  # a pooler accepts before its server does
            try:
                new_connections.prepare(driver, record.info)
            except BaseException:
                driver.close()
                raise
            finally:
                self._timeouts.end(use)

        event.listen(self.engine, "handle_error", _note_disconnect)
        event.listen(pool, "connect", prepare, insert=True)  # before SQLAlchemy's own first statements

    @contextmanager
    def begin(
        self, *, within: float = WITHIN_SECONDS, brief_lock_wait: bool = False, durable: bool = True
    ) -> Iterator[Connection]:
        """Open a write transaction. It commits at the end of the block, and rolls back if the block raises.

        The transaction fails if it takes longer than `within` seconds. Waits for locks fail after one second on
        PostgreSQL, or after 50 ms with `brief_lock_wait`, for those that others wait behind; on SQLite after `within`.
        Unless `durable`, the commit does not wait for PostgreSQL's disk, and may be lost if PostgreSQL crashes.

        Raises:
            FileReplaced: SQLite's file is no longer the one that is open.
            CommitUnknown: the connection broke during the commit.
            DBAPIError: it failed, and nothing was written.
            PoolTimeoutError: no connection came free; nothing was written.
        """
        if self.is_sqlite:
            self.check_file()
            with self._writer.take(within), self.engine.connect() as connection, connection.begin():
                self._writer.write(connection, within)
                self._stored_clock.set_or_store(connection)
                yield connection
            return
        with self.engine.connect() as connection:
            use = self._timeouts.begin(connection.connection.dbapi_connection, within)
            try:
                with connection.begin() as transaction:
                    also = (self._begin_also if durable else NOT_DURABLE) + connection.info.get(BEGIN_ALSO, "")
                    connection.exec_driver_sql((BRIEF_LOCK_WAIT if brief_lock_wait else LONG_LOCK_WAIT) + also)
                    self._set_clock(connection)
                    yield connection
                    if transaction.is_active:  # the block may have rolled it back
                        _commit(transaction, use)
            finally:
                self._end(use, connection)

    @contextmanager
    def read(self, *, within: float = WITHIN_SECONDS) -> Iterator[Connection]:
        """Open a connection for reads. Each statement sees what is committed when it begins.

        Raises:
            DBAPIError: it failed, or took longer than `within` seconds.
            PoolTimeoutError: no connection came free.
        """
        with self.engine.connect() as connection:
            if self.is_sqlite:
                self._set_clock(connection)
                yield connection
                return
            use = self._timeouts.begin(connection.connection.dbapi_connection, within)
            try:
                self._set_clock(connection)
                yield connection
            finally:
                self._end(use, connection)

    def ask_time(self, tx: Connection) -> datetime:
        """Return `database_now`, and set `clock` by it."""
        if self.is_sqlite:
            self._stored_clock.set(tx)
            return self.clock()
        asked_at = elapsed()
        moment = database_now(tx)
        self.clock.learn(moment, asked_at)
        return moment

    @property
    def wall_clock(self) -> Callable[[], datetime]:
        """Clock for times sent outside: the host's on SQLite, as `clock` may still be catching up with it."""
        return self.clock.host if self.is_sqlite else self.clock

    def set_time(self, tx: Connection, by: timedelta) -> bool:
        """Move SQLite's time by `by`, for all processes; return False if that was not possible."""
        return self._stored_clock.move(tx, by)

    def _set_clock(self, connection: Connection) -> None:
        """Ask for the time before the first use. From then on the heartbeats do."""
        if not self.clock.is_set:
            self.ask_time(connection)

    def _end(self, use: ConnectionUse, connection: Connection) -> None:
        self._timeouts.end(use)
        if use.is_overdue:  # a cancel request may still be on its way
            connection.invalidate()

    def wrong_encoding(self) -> str | None:
        """Return why this database must not be used, in one clause; None if it may be, or does not answer."""
        if self.is_sqlite:
            return None
        try:
            with self.read(within=CONNECT_SECONDS):
                return None
        except DATABASE_ERRORS as error:
            original = error.orig if isinstance(error, DBAPIError) else None
            return str(original) if isinstance(original, WrongEncoding) else None

    def check_file(self) -> None:
        """Check that SQLite's file is still the one that is open. Every write does, as it takes a few µs.

        Raises:
            FileReplaced: it is not. The log is first written to the open file: left behind, it would be taken for the
                new file's and damage that. Not so if the open file was overwritten.
        """
        if self._file is not None and self._file.is_replaced():
            if not self._file.is_overwritten and monotonic() - self._truncated_at > TRUNCATED_AGAIN_AFTER:
                self._truncated_at = monotonic()
                with suppress(DBAPIError):
                    self._truncate_log()
            raise self._file.replaced()

    def open_not_durable(self) -> "Database":
        """Return one more connection to the same database, whose commits do not wait for the disk."""
        url = self.url.render_as_string(hide_password=False)
        other = Database(url, pool_size=1, durable=False, clock=self.clock)
        other._writer = self._writer  # one queue for all writers of the process
        other._file = self._file
        return other

    def purge_deleted(self) -> bool:
        """Remove deleted data from SQLite's files; return False if a reader of an older state prevents it for now.

        SQLite overwrites what it deletes, but its log still holds the pages as they were. On PostgreSQL the server's
        own vacuum does this. Calls at the same time share one truncation.
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
        with self._writer.take(), self.engine.connect() as connection:
            with busy_timeout(connection, TRUNCATING_SECONDS):
                try:
                    busy, *_ = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()
                except OperationalError:  # a writer of another process held the lock throughout
                    return False
            return not busy

    def close(self) -> None:
        """Close every pooled connection."""
        self._timeouts.stop()
        self._lock_watch.stop()
        self.engine.dispose()
        if self._own_file is not None:
            self._own_file.close()


def _note_disconnect(context: ExceptionContext) -> None:
    """Discard the pool's connections if the server takes no writes: new ones may lead to its successor."""
    state = sqlstate_of(context.original_exception)
    if state in NOT_PRIMARY or state.startswith(CONNECTION_ERRORS):
        context.is_disconnect = True


def usable_database(url: str, *, pool_size: int = WORKER_CONNECTIONS) -> Database:
    """Return the database at `url`. It need not be reachable yet.

    Raises:
        SystemExit: it is reachable, but its encoding cannot hold every text.
    """
    database = Database(url, pool_size=pool_size)
    reason = database.wrong_encoding()
    if reason is not None:
        raise SystemExit(f"BACKBURNER_DATABASE_URL names a database that cannot be used: {reason}")
    return database


def _commit(transaction: RootTransaction, use: ConnectionUse) -> None:
    """Commit, and raise `CommitUnknown` if it is not certain whether that worked.

    A commit that was cancelled for taking too long is committed, but perhaps not on a synchronous standby.
    """
    try:
        transaction.commit()
    except DBAPIError as error:
        if error.connection_invalidated and sqlstate_of(error) != IDLE_IN_TRANSACTION:
            raise CommitUnknown("no answer came to the commit") from error
        raise
    if use.is_overdue:
        raise CommitUnknown("the commit took too long")


def sqlstate_of(error: BaseException) -> str:
    """Return PostgreSQL's error code; empty if there is none."""
    original = error.orig if isinstance(error, DBAPIError) else error
    return getattr(original, "sqlstate", None) or ""


def is_locked(error: BaseException) -> bool:
    """Return whether a transaction failed on another session's lock. It may be tried again, or in parts."""
    return sqlstate_of(error) in LOCK_ERRORS


@contextmanager
def unless_locked() -> Iterator[None]:
    """Suppress the failure of the block if another session holds a lock. The caller tries again later."""
    try:
        yield
    except DBAPIError as error:
        if not is_locked(error):
            raise


def database_now(tx: Connection) -> datetime:
    """Return the database's time, the one clock that all processes on all machines agree on."""
    if tx.dialect.name == "sqlite":
        return _sqlite_clock(tx)()
    moment: datetime = tx.execute(_CLOCK).scalar_one()
    return moment.astimezone(UTC)


_CLOCK: Final = select(func.clock_timestamp())


def database_clock(tx: Connection) -> Any:
    """Return the same time as a value to write, which costs no round trip of its own."""
    return _sqlite_clock(tx)() if tx.dialect.name == "sqlite" else func.clock_timestamp()


def _sqlite_clock(tx: Connection) -> Callable[[], datetime]:
    """Return the clock of the connection's `Database`; the host's if the engine is not a `Database`'s."""
    clock: Callable[[], datetime] = tx.get_execution_options().get(CLOCK, host_now)
    return clock
