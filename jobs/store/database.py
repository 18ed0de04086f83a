"""One database, two kinds of transaction: `begin` to write, `read` to look.

SQLite (the embedded default) has one writer at a time. Every write transaction has its turn (`Turns`) and takes the
write lock at once (`BEGIN IMMEDIATE`), so none fails halfway for having read first.

On PostgreSQL whoever holds a lock holds up itself alone: every write transaction sets its own limits in its first round
trip, which a pooler in transaction mode passes on like any other statement. See decision 0017.
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
from jobs.store.sqlite_clock import KeptTime
from jobs.store.sqlite_file import SqliteFile
from jobs.store.sqlite_writer import BUSY_SECONDS, SqliteWriter, busy_timeout, set_up
from jobs.store.statement_timeouts import TimeLimits, Use


class CommitUnknown(SQLAlchemyError):
    """No answer came to a COMMIT: the transaction may have been committed, or may yet be."""


DATABASE_ERRORS = (DBAPIError, PoolTimeoutError, CommitUnknown)
"""What a transaction raises while the database is away, or has no connection to spare."""
LOCK_ERRORS: Final = ("55P03", "40P01")
"""SQLSTATEs of a lock that another session holds too long, and of a deadlock: nothing was written."""
STOPPED: Final = "25P03"
"""SQLSTATE of a session that was ended for standing still in a transaction, which was rolled back."""
ELSEWHERE: Final = ("25006", "57P01", "57P02", "57P03")
"""SQLSTATEs of a server that takes no writes, as one that was demoted, and of one that shuts down or starts."""
CONNECTION_ERRORS: Final = "08"
WITHIN_SECONDS: Final = 30.0
"""How long one transaction, or what is read on one connection, may take unless its caller says."""
READ_SECONDS: Final = 8.0
"""The same of small reads for many at once."""
TOGETHER_SECONDS: Final = 8.0
"""The same of what many do in one transaction, and each by itself after it."""
PING_SECONDS: Final = 2.0
CONNECT_SECONDS: Final = 4
POOL_SECONDS: Final = 10
TRUNCATED_AGAIN_AFTER: Final = 1.0
TRUNCATING_SECONDS: Final = 0.25
"""How long readers of an old state are waited for, as writers wait meanwhile."""
CLOCK: Final = "backburner_clock"
IN_MEMORY: Final = (None, "", ":memory:")
BEGIN: Final = (
    "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = '{}'; "
    "SET LOCAL idle_in_transaction_session_timeout = '5s'"
)
"""One message for all of it, so it costs no round trip."""
PATIENT, HURRIED = BEGIN.format("1s"), BEGIN.format("50ms")
NOT_DURABLE: Final = "; SET LOCAL synchronous_commit = off"
# A server that is gone without a word is noticed within ten seconds, also in the midst of a transaction.
UNLESS_ASKED: Final = {
    "application_name": "backburner",
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 2,
    "tcp_user_timeout": 9_000,  # in milliseconds
}
"""What a connection is given unless the URL says otherwise."""


class Database:
    """The engine and how to open transactions on it. Safe to share between threads and greenlets."""

    def __init__(
        self, url: str, *, pool_size: int = WORKER_CONNECTIONS, durable: bool = True, clock: Clock | None = None
    ) -> None:
        """Connect lazily to `url`; at most `pool_size` connections are open at once.

        Not `durable` is for what may be lost with the machine: a commit then does not wait for the disk.
        """
        self.clock = clock or Clock()
        self._kept_time = KeptTime(self.clock)  # of SQLite
        self.url = make_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._path = Path(self.url.database) if self.is_sqlite and self.url.database not in IN_MEMORY else None
        options: dict[str, Any] = {"pool_size": pool_size, "pool_timeout": POOL_SECONDS}
        options["hide_parameters"] = True  # an error must not carry a prompt into a log
        if self.is_sqlite:
            if self._path is not None:
                self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            options |= {"max_overflow": 0, "pool_timeout": 2 * BUSY_SECONDS}  # writers wait in their turn
            options["connect_args"] = {"timeout": BUSY_SECONDS, "check_same_thread": False}
        else:
            options["poolclass"] = SharingPool
            options["connect_args"] = {
                "connect_timeout": CONNECT_SECONDS,
                "prepare_threshold": prepare_threshold(self.url),
                "client_encoding": "utf8",  # whatever a role is given
                "autocommit": True,  # a transaction is begun by our own BEGIN
                **{name: value for name, value in UNLESS_ASKED.items() if name not in self.url.query},
            }
        of_driver = self.url.difference_update_query([THRESHOLD_IN_URL])  # there it would be text
        self.engine = create_engine(of_driver, execution_options={CLOCK: self.clock}, **options)
        self._truncating = Lock()
        self._truncated_at = 0.0
        self._turns = SqliteWriter()  # of SQLite
        self._file = self._own_file = SqliteFile(self._path) if self._path is not None else None
        self._also = "" if durable else NOT_DURABLE
        self._lock_watch = LockWatch(of_driver, options["connect_args"])
        self._limits = TimeLimits(self._lock_watch.look_soon)
        if self.is_sqlite:
            set_up(self.engine, self._file, durable=durable)
        else:
            self._set_up_pool()

    def _set_up_pool(self) -> None:
        pool, dialect = cast("SharingPool", self.engine.pool), self.engine.dialect

        def ping(driver: Any) -> None:
            use = self._limits.begin(driver, PING_SECONDS, max_wait=0)
            try:
                dialect.do_ping(driver)
            finally:
                self._limits.end(use)

        pool.ping, pool.errors = ping, (dialect.loaded_dbapi.Error,)
        new_connections = NewConnections(self.url)

        def make_ready(driver: Any, record: ConnectionPoolEntry) -> None:
            use = self._limits.begin(driver, CONNECT_SECONDS, max_wait=0)  # a pooler accepts before its server does
            try:
                new_connections.make_ready(driver, record.info)
            except BaseException:
                driver.close()
                raise
            finally:
                self._limits.end(use)

        event.listen(self.engine, "handle_error", _note_disconnect)
        event.listen(pool, "connect", make_ready, insert=True)  # before SQLAlchemy's own first questions

    @contextmanager
    def begin(
        self, *, within: float = WITHIN_SECONDS, hurried: bool = False, durable: bool = True
    ) -> Iterator[Connection]:
        """A write transaction: committed at the end of the block, rolled back when it raises.

        What has not ended `within` so many seconds is ended, and so are waits for what others have locked: after one
        second on PostgreSQL, or at once if it is `hurried` as others wait behind it, and `within` on SQLite. One that
        is not `durable` may be lost if PostgreSQL crashes: its commit does not wait for the disk.

        Raises:
            FileReplaced: SQLite's file is no longer the one that is open.
            CommitUnknown: the connection broke over the commit.
            DBAPIError: it did not work, and nothing was written.
            PoolTimeoutError: as this; no connection came free.
        """
        if self.is_sqlite:
            self.check_file()
            with self._turns.take(within), self.engine.connect() as connection, connection.begin():
                self._turns.write(connection, within)
                self._kept_time.keep(connection)
                yield connection
            return
        with self.engine.connect() as connection:
            use = self._limits.begin(connection.connection.dbapi_connection, within)
            try:
                with connection.begin() as transaction:
                    also = (self._also if durable else NOT_DURABLE) + connection.info.get(BEGIN_ALSO, "")
                    connection.exec_driver_sql((HURRIED if hurried else PATIENT) + also)
                    self._set_clock(connection)
                    yield connection
                    if transaction.is_active:  # else the block itself has rolled it back
                        _commit(transaction, use)
            finally:
                self._end(use, connection)

    @contextmanager
    def read(self, *, within: float = WITHIN_SECONDS) -> Iterator[Connection]:
        """A connection for reads; each statement sees what is committed when it begins.

        Raises:
            DBAPIError: it did not work, or has not ended `within` so many seconds.
            PoolTimeoutError: no connection came free.
        """
        with self.engine.connect() as connection:
            if self.is_sqlite:
                self._set_clock(connection)
                yield connection
                return
            use = self._limits.begin(connection.connection.dbapi_connection, within)
            try:
                self._set_clock(connection)
                yield connection
            finally:
                self._end(use, connection)

    def ask_time(self, tx: Connection) -> datetime:
        """Return `database_now`, and set our clock by it."""
        if self.is_sqlite:
            self._kept_time.look(tx)
            return self.clock()
        asked_at = elapsed()
        moment = database_now(tx)
        self.clock.learn(moment, asked_at)
        return moment

    @property
    def wall_clock(self) -> Callable[[], datetime]:
        """The time of day, as strangers are told it: the host's on SQLite, where ours may be on its way there."""
        return self.clock.host if self.is_sqlite else self.clock

    def set_time(self, tx: Connection, by: timedelta) -> bool:
        """Set SQLite's time by so much, for all processes; False where that was not possible."""
        return self._kept_time.move(tx, by)

    def _set_clock(self, connection: Connection) -> None:
        """Ask for the time before anything else; from then on the heartbeats do."""
        if not self.clock.is_set:
            self.ask_time(connection)

    def _end(self, use: Use, connection: Connection) -> None:
        self._limits.end(use)
        if use.is_over:  # a request to cancel it may still be on its way
            connection.invalidate()

    def wrong_encoding(self) -> str | None:
        """Why this database must not be used, in one clause; None also while it does not answer."""
        if self.is_sqlite:
            return None
        try:
            with self.read(within=CONNECT_SECONDS):
                return None
        except DATABASE_ERRORS as error:
            original = error.orig if isinstance(error, DBAPIError) else None
            return str(original) if isinstance(original, WrongEncoding) else None

    def check_file(self) -> None:
        """Look whether SQLite's file is still the one that is open; every write does, as that takes a few µs.

        Raises:
            FileReplaced: it is not. What its log holds is put into the file that is open, unless that was overwritten,
                as that log would else be taken for the new file's, which damages it.
        """
        if self._file is not None and self._file.is_replaced():
            if not self._file.is_overwritten and monotonic() - self._truncated_at > TRUNCATED_AGAIN_AFTER:
                self._truncated_at = monotonic()
                with suppress(DBAPIError):
                    self._truncate_log()
            raise self._file.replaced()

    def not_durable(self) -> "Database":
        """One more connection to the same database, whose commits do not wait for the disk."""
        url = self.url.render_as_string(hide_password=False)
        other = Database(url, pool_size=1, durable=False, clock=self.clock)
        other._turns = self._turns  # it queues with our own writers, not behind them
        other._file = self._file
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
        with self._turns.take(), self.engine.connect() as connection:
            with busy_timeout(connection, TRUNCATING_SECONDS):
                try:
                    busy, *_ = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()
                except OperationalError:  # a writer of another process held the lock for all that time
                    return False
            return not busy

    def close(self) -> None:
        """Close every pooled connection."""
        self._limits.stop()
        self._lock_watch.stop()
        self.engine.dispose()
        if self._own_file is not None:
            self._own_file.let_go()


def _note_disconnect(context: ExceptionContext) -> None:
    """Discard all connections of the pool where the server can't be written to: the new ones may lead to another."""
    state = sqlstate_of(context.original_exception)
    if state in ELSEWHERE or state.startswith(CONNECTION_ERRORS):
        context.is_disconnect = True


def usable_database(url: str, *, pool_size: int = WORKER_CONNECTIONS) -> Database:
    """Return the database at `url`, which need not answer.

    Raises:
        SystemExit: it answers, and cannot hold every text.
    """
    database = Database(url, pool_size=pool_size)
    reason = database.wrong_encoding()
    if reason is not None:
        raise SystemExit(f"BACKBURNER_DATABASE_URL names a database that cannot be used: {reason}")
    return database


def _commit(transaction: RootTransaction, use: Use) -> None:
    """Commit, and tell what is not known from what is.

    One that was canceled as it took too long is committed, but perhaps not where a standby would know of it.
    """
    try:
        transaction.commit()
    except DBAPIError as error:
        if error.connection_invalidated and sqlstate_of(error) != STOPPED:
            raise CommitUnknown("no answer came to the commit") from error
        raise
    if use.is_over:
        raise CommitUnknown("the commit took too long")


def sqlstate_of(error: BaseException) -> str:
    """PostgreSQL's code for what went wrong; empty where there is none."""
    original = error.orig if isinstance(error, DBAPIError) else error
    return getattr(original, "sqlstate", None) or ""


def is_locked(error: BaseException) -> bool:
    """Whether a transaction failed for what another session has locked: it may be tried again, or in parts."""
    return sqlstate_of(error) in LOCK_ERRORS


@contextmanager
def unless_locked() -> Iterator[None]:
    """Leave for another time what fails for a lock of another session."""
    try:
        yield
    except DBAPIError as error:
        if not is_locked(error):
            raise


def database_now(tx: Connection) -> datetime:
    """The database's clock: the one clock that all processes on all machines agree on."""
    if tx.dialect.name == "sqlite":
        return _kept_clock(tx)()
    moment: datetime = tx.execute(_CLOCK).scalar_one()
    return moment.astimezone(UTC)


_CLOCK: Final = select(func.clock_timestamp())


def database_clock(tx: Connection) -> Any:
    """The same clock as a value to be written, which costs no question of its own."""
    return _kept_clock(tx)() if tx.dialect.name == "sqlite" else func.clock_timestamp()


def _kept_clock(tx: Connection) -> Callable[[], datetime]:
    """SQLite's: the one that its `Database` keeps; a connection of another engine has but the host's."""
    clock: Callable[[], datetime] = tx.get_execution_options().get(CLOCK, host_now)
    return clock
