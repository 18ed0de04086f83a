"""Limits on statements, locks, idle transactions and dead connections."""

import os
import socket
from datetime import timedelta
from select import select as select_ready
from typing import Any

import pytest
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import DBAPIError, OperationalError

from jobs.store.database import Database, database_now, is_locked, unless_locked
from jobs.store.leases import take_lease
from tests.support.records import Records
from tests.support.sessions import another_session, quickly
from tests.support.waiting import await_until

SECOND = timedelta(seconds=1)
SLOW_COMMIT = (
    "CREATE TABLE late (id int)",
    "CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(60); RETURN NULL; END'",
    "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON late INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION late()",
)


@pytest.fixture
def database(postgres_database: Database) -> Database:
    """Only PostgreSQL has row locks and these limits, so `records` uses it."""
    return postgres_database


def test_limits_apply_to_one_transaction_without_session_state(database: Database) -> None:
    """Behind a pooler in transaction mode the next transaction runs in another session."""
    names = ("lock_timeout", "idle_in_transaction_session_timeout", "synchronous_commit")

    def settings(of: Database, *, inside: bool) -> list[str]:
        with of.begin() if inside else of.read() as tx:
            return [tx.execute(text(f"SHOW {name}")).scalar_one() for name in names]

    usual = settings(database, inside=False)
    assert settings(database, inside=True) == ["1s", "5s", usual[2]]
    other = database.open_not_durable()
    assert settings(other, inside=True) == ["1s", "5s", "off"]
    assert settings(other, inside=False) == usual
    assert "options" not in {each.split("=")[0] for each in _parameters(database)}
    other.close()


def test_limits_hold_when_session_state_is_lost(records: Records) -> None:
    """As behind a pooler in transaction mode, which keeps only the prepared statements of a session."""

    def forget(driver: Any, *_: object) -> None:
        driver.execute("RESET ALL; DISCARD TEMP; DISCARD SEQUENCES; UNLISTEN *")

    def be_idle() -> None:
        with records.database.begin() as tx:
            tx.execute(text("SET LOCAL idle_in_transaction_session_timeout = '100ms'"))  # instead of 5 s
            await_until(lambda: has_received(tx), 10, "the session is still there")

    event.listen(records.database.engine, "checkout", forget)
    with another_session(records.database, "SELECT 1 FROM api_keys FOR UPDATE"), quickly():
        for _ in range(3):  # often enough for statements to be prepared
            with pytest.raises(OperationalError) as caught:
                records.submit_job()
            assert is_locked(caught.value)
    with pytest.raises(DBAPIError):
        be_idle()
    records.submit_job()


def test_a_lock_wait_ends_after_a_second(records: Records) -> None:
    with another_session(records.database, "SELECT 1 FROM api_keys FOR UPDATE"), quickly():
        with pytest.raises(OperationalError) as caught:
            records.submit_job()
        assert is_locked(caught.value)
        with unless_locked(), records.database.begin(brief_lock_wait=True) as tx:
            tx.execute(text("SELECT 1 FROM api_keys FOR UPDATE"))


def test_an_idle_transaction_loses_its_locks(database: Database, postgres_url: str) -> None:
    """As when a host loses power: its backend would live on for two hours."""
    other = Database(postgres_url)

    def stop() -> None:
        with other.begin() as tx:
            tx.execute(text("LOCK TABLE leases IN EXCLUSIVE MODE"))
            await_until(lambda: is_free(database), 15, "the locks are still held")

    with pytest.raises(DBAPIError):  # its commit finds no session
        stop()
    other.close()


def test_a_dead_connection_is_noticed_within_ten_seconds(database: Database) -> None:
    found = dict(each.split("=") for each in _parameters(database))
    idle, interval, count = (int(found[f"keepalives_{each}"]) for each in ("idle", "interval", "count"))
    assert idle + interval * count <= 10
    assert int(found["tcp_user_timeout"]) <= 10_000


def test_the_socket_has_these_limits(database: Database) -> None:
    """The kernel closes the socket if neither data nor a probe is acknowledged in that time."""
    with database.read() as tx:
        driver: Any = tx.connection.dbapi_connection
        with socket.socket(fileno=os.dup(driver.fileno())) as copy:

            def option(level: int, name: str) -> int:
                return copy.getsockopt(level, getattr(socket, name))

            assert option(socket.SOL_SOCKET, "SO_KEEPALIVE") == 1
            idle, interval, count = (option(socket.IPPROTO_TCP, f"TCP_KEEP{each}") for each in ("IDLE", "INTVL", "CNT"))
            assert idle + interval * count <= 10
            assert 0 < option(socket.IPPROTO_TCP, "TCP_USER_TIMEOUT") <= 10_000


def test_a_statement_that_takes_too_long_is_cancelled(database: Database) -> None:
    with quickly(), pytest.raises(OperationalError), database.read(within=0.5) as tx:
        tx.execute(text("SELECT pg_sleep(60)"))
    with database.read() as tx:
        assert tx.execute(text("SELECT 1")).scalar_one() == 1


def test_a_commit_that_takes_too_long_is_cancelled(database: Database) -> None:
    with database.begin() as tx:
        for statement in SLOW_COMMIT:
            tx.execute(text(statement))

    def write() -> None:
        with database.begin(within=0.5) as tx:
            tx.execute(text("INSERT INTO late VALUES (1)"))

    with quickly(), pytest.raises(OperationalError):  # cancelled, so nothing was written for certain
        write()
    with database.read() as tx:
        assert tx.execute(text("SELECT count(*) FROM late")).scalar_one() == 0


def has_received(tx: Connection) -> bool:
    """Return whether the server has sent anything by itself, as it does when it ends a session."""
    driver: Any = tx.connection.dbapi_connection
    return bool(select_ready([driver.fileno()], [], [], 0)[0])


def is_free(database: Database) -> bool:
    """Return whether the table of leases is unlocked."""
    written = list[bool]()
    with unless_locked(), database.begin(brief_lock_wait=True) as tx:
        written.append(take_lease(tx, "a lease", "me", database_now(tx), SECOND))
    return bool(written)


def _parameters(database: Database) -> list[str]:
    with database.read() as tx:
        driver: Any = tx.connection.dbapi_connection
        return [f"{each.keyword.decode()}={each.val.decode()}" for each in driver.pgconn.info if each.val]
