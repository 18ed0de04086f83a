"""How long a statement, a lock, an idle transaction and a dead connection are waited for."""

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
    """Row locks and time limits are PostgreSQL's alone, so `records` are there."""
    return postgres_database


def test_limits_last_for_one_transaction_and_need_no_state_of_the_session(database: Database) -> None:
    """A pooler in transaction mode gives the next transaction another session."""
    names = ("lock_timeout", "idle_in_transaction_session_timeout", "synchronous_commit")

    def settings(of: Database, *, inside: bool) -> list[str]:
        with of.begin() if inside else of.read() as tx:
            return [tx.execute(text(f"SHOW {name}")).scalar_one() for name in names]

    usual = settings(database, inside=False)
    assert settings(database, inside=True) == ["1s", "5s", usual[2]]
    other = database.not_durable()
    assert settings(other, inside=True) == ["1s", "5s", "off"]
    assert settings(other, inside=False) == usual
    assert "options" not in {each.split("=")[0] for each in _parameters(database)}
    other.close()


def test_limits_hold_where_no_state_of_a_session_survives(records: Records) -> None:
    """As behind a pooler in transaction mode; of a session it keeps prepared statements alone."""

    def forget(driver: Any, *_: object) -> None:
        driver.execute("RESET ALL; DISCARD TEMP; DISCARD SEQUENCES; UNLISTEN *")

    def stand_still() -> None:
        with records.database.begin() as tx:
            tx.execute(text("SET LOCAL idle_in_transaction_session_timeout = '100ms'"))  # for 5 s
            await_until(lambda: has_heard(tx), 10, "the session is still there")

    event.listen(records.database.engine, "checkout", forget)
    with another_session(records.database, "SELECT 1 FROM api_keys FOR UPDATE"), quickly():
        for _ in range(3):  # so often that statements are prepared
            with pytest.raises(OperationalError) as caught:
                records.submit_job()
            assert is_locked(caught.value)
    with pytest.raises(DBAPIError):
        stand_still()
    records.submit_job()


def test_a_lock_is_waited_for_a_second(records: Records) -> None:
    with another_session(records.database, "SELECT 1 FROM api_keys FOR UPDATE"), quickly():
        with pytest.raises(OperationalError) as caught:
            records.submit_job()
        assert is_locked(caught.value)
        with unless_locked(), records.database.begin(hurried=True) as tx:
            tx.execute(text("SELECT 1 FROM api_keys FOR UPDATE"))


def test_who_stops_in_a_transaction_loses_its_locks(database: Database, postgres_url: str) -> None:
    """As a host does that loses power: its backend would live on for two hours."""
    other = Database(postgres_url)

    def stop() -> None:
        with other.begin() as tx:
            tx.execute(text("LOCK TABLE leases IN EXCLUSIVE MODE"))
            await_until(lambda: is_free(database), 15, "the locks are still held")

    with pytest.raises(DBAPIError):  # its commit finds no session
        stop()
    other.close()


def test_a_dead_line_is_noticed_within_ten_seconds(database: Database) -> None:
    found = dict(each.split("=") for each in _parameters(database))
    idle, interval, count = (int(found[f"keepalives_{each}"]) for each in ("idle", "interval", "count"))
    assert idle + interval * count <= 10
    assert int(found["tcp_user_timeout"]) <= 10_000


def test_the_kernel_says_so_of_the_real_line(database: Database) -> None:
    """It ends a line whose packets are lost: what was sent is acknowledged within so long, or a probe is."""
    with database.read() as tx:
        driver: Any = tx.connection.dbapi_connection
        with socket.socket(fileno=os.dup(driver.fileno())) as line:

            def option(level: int, name: str) -> int:
                return line.getsockopt(level, getattr(socket, name))

            assert option(socket.SOL_SOCKET, "SO_KEEPALIVE") == 1
            idle, interval, count = (option(socket.IPPROTO_TCP, f"TCP_KEEP{each}") for each in ("IDLE", "INTVL", "CNT"))
            assert idle + interval * count <= 10
            assert 0 < option(socket.IPPROTO_TCP, "TCP_USER_TIMEOUT") <= 10_000


def test_a_statement_that_takes_too_long_is_ended(database: Database) -> None:
    with quickly(), pytest.raises(OperationalError), database.read(within=0.5) as tx:
        tx.execute(text("SELECT pg_sleep(60)"))
    with database.read() as tx:
        assert tx.execute(text("SELECT 1")).scalar_one() == 1


def test_a_commit_that_takes_too_long_is_ended(database: Database) -> None:
    with database.begin() as tx:
        for statement in SLOW_COMMIT:
            tx.execute(text(statement))

    def write() -> None:
        with database.begin(within=0.5) as tx:
            tx.execute(text("INSERT INTO late VALUES (1)"))

    with quickly(), pytest.raises(OperationalError):  # canceled, so it is known that nothing was written
        write()
    with database.read() as tx:
        assert tx.execute(text("SELECT count(*) FROM late")).scalar_one() == 0


def has_heard(tx: Connection) -> bool:
    """Whether the server has said something by itself, as it does when it ends a session."""
    driver: Any = tx.connection.dbapi_connection
    return bool(select_ready([driver.fileno()], [], [], 0)[0])


def is_free(database: Database) -> bool:
    """Whether the leases can be written."""
    written = list[bool]()
    with unless_locked(), database.begin(hurried=True) as tx:
        written.append(take_lease(tx, "a lease", "me", database_now(tx), SECOND))
    return bool(written)


def _parameters(database: Database) -> list[str]:
    with database.read() as tx:
        driver: Any = tx.connection.dbapi_connection
        return [f"{each.keyword.decode()}={each.val.decode()}" for each in driver.pgconn.info if each.val]
