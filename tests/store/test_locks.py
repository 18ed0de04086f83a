"""Whoever holds a lock holds up itself alone, and a connection that says nothing is not waited for."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from random import Random
from select import select as select_ready
from typing import Any

import httpcore
import psycopg
import pytest
from sqlalchemy import Connection, event, make_url, select, text
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError
from structlog.testing import capture_logs

from jobs.job import OnUnknownOutcome
from jobs.lifecycle import Status
from jobs.store import tables
from jobs.store.database import CommitUnknown, Database, database_now, is_locked, unless_locked
from jobs.store.endpoints import SealedSecret, create_endpoint
from jobs.store.keys import ensure_bootstrap_key
from jobs.store.lanes import LaneSettings
from jobs.store.reconciliation import AT_ONCE
from jobs.store.runlist import Turns
from jobs.store.workers import give_up_silent, take_lease
from jobs.webhook import EventType
from tests.chaos.proxy import Proxy
from tests.support.clock import Clock
from tests.support.deaf import DeafBroker, DeafChannel
from tests.support.postgres import PostgresServer
from tests.support.records import Records, make_key
from tests.support.waiting import await_until
from worker.calls import Calls
from worker.claims import Claims
from worker.identity import Identity
from worker.lane import LaneKeeper
from worker.maintenance import deadlines, rescuer
from worker.maintenance.loop import Maintenance
from worker.maintenance.together import holds_lease
from worker.provider.line import Line

SECOND = timedelta(seconds=1)
TIMEOUT = 10 * SECOND
QUICK = 5.0
"""In seconds: far below any lock here, which lasts as long as its test wants."""
SLOW_COMMIT = (
    "CREATE TABLE late (id int)",
    "CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(60); RETURN NULL; END'",
    "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON late INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION late()",
)


@pytest.fixture
def database(postgres_url: str) -> Iterator[Database]:
    opened = Database(postgres_url)
    yield opened
    opened.close()


@contextmanager
def another_session(database: Database, statement: str, *parameters: object) -> Iterator[psycopg.Connection]:
    """A person's open transaction, after `statement`."""
    url = database.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url, application_name="somebody") as session:
        session.execute(statement.encode(), parameters)
        yield session


@contextmanager
def quickly() -> Iterator[None]:
    began_at = time.monotonic()
    yield
    assert time.monotonic() - began_at < QUICK


def rescue(records: Records) -> None:
    rescuer.run_once(records.database, DeafBroker(), DeafChannel(), records.clock(), TIMEOUT)


def expire(records: Records) -> None:
    deadlines.run_once(records.database, DeafChannel(), records.clock())


def statuses(records: Records) -> dict[str, Status]:
    with records.database.read() as tx:
        return {row.id: Status(row.status) for row in tx.execute(select(tables.jobs.c.id, tables.jobs.c.status))}


@pytest.mark.parametrize(
    ("begun", "duty", "span", "moved"),
    [
        (Status.IN_PROGRESS, rescue, 2 * TIMEOUT, Status.QUEUED),
        (Status.IN_PROGRESS, expire, timedelta(days=9), Status.FAILED),
        (Status.QUEUED, expire, timedelta(days=9), Status.FAILED),
    ],
)
@pytest.mark.parametrize("locked", ["jobs", "webhook_endpoints"])
def test_a_locked_row_holds_up_no_other_job(
    records: Records,
    clock: Clock,
    begun: Status,
    duty: Callable[[Records], None],
    span: timedelta,
    moved: Status,
    locked: str,
) -> None:
    """The job's own row, or that of an endpoint which is to be told of its end."""
    other = make_key(records.database, "another key", clock())
    with records.database.begin() as tx:
        create_endpoint(
            tx,
            other.id,
            name="hook",
            url="https://example.com/",
            receiver="a receiver",
            event_types=list(EventType),
            secret=SealedSecret("sealed", "hint"),
            now=clock(),
        )
    stuck = records.submit_job(other)
    free = [records.submit_job() for _ in range(5)]
    if begun is Status.IN_PROGRESS:
        for each in (stuck, *free):
            records.claim(each)
    clock.advance(span)
    waits = locked == "jobs" or moved is Status.FAILED
    with another_session(
        records.database,
        f"SELECT 1 FROM {locked} WHERE %s IN (id, api_key_id) FOR UPDATE",
        stuck.id if locked == "jobs" else other.id,
    ):
        with quickly():
            duty(records)
        found = statuses(records)
    assert {found[each.id] for each in free} == {moved}
    assert found[stuck.id] is (begun if waits else moved)
    duty(records)
    assert statuses(records)[stuck.id] is moved


def test_a_call_that_was_sent_is_not_taken_for_unsent_once_a_lock_on_its_job_is_gone(
    records: Records, clock: Clock
) -> None:
    """It was broken off within its worker: what is known of it must outlast a look that the lock has stopped."""
    worker_id = records.worker()
    calls = Calls(on_end=lambda: None)
    broken = [records.claim(records.submit_job(on_unknown_outcome=OnUnknownOutcome.FAIL), worker_id) for _ in range(2)]
    for _, attempt in broken:
        line = Line()
        post = httpcore.Request("POST", "https://host/v1/responses")
        line.trace("http11.send_request_headers.started", {"request": post})
        calls.break_off(calls.begin(attempt, line, SECOND))
    now = clock.advance(rescuer.ORPHAN_AGE + SECOND)

    def look() -> int:
        return rescuer.rescue_orphans(records.database, DeafBroker(), DeafChannel(), now, worker_id, calls)

    (stuck, _), (free, _) = broken
    with another_session(records.database, "SELECT 1 FROM jobs WHERE id = %s FOR UPDATE", stuck.id):
        with quickly():
            assert look() == 1
        found = statuses(records)
    assert (found[stuck.id], found[free.id]) == (Status.IN_PROGRESS, Status.FAILED)
    assert look() == 1
    assert statuses(records)[stuck.id] is Status.FAILED


def test_a_bell_is_rung_for_others_while_a_job_and_a_key_are_locked(records: Records, clock: Clock) -> None:
    jobs = [records.submit_job() for _ in range(3)]
    turns = Turns()

    def pick() -> list[str]:
        with records.database.begin() as tx:
            return turns.pick(tx, clock(), 1, clock() - SECOND)

    with (
        another_session(records.database, "SELECT 1 FROM jobs WHERE id = %s FOR UPDATE", jobs[0].id),
        another_session(records.database, "SELECT 1 FROM api_keys FOR UPDATE"),
        quickly(),
    ):
        assert pick() == []  # the first in the queue is the locked one
        assert pick() == [jobs[1].id]
        assert pick() == [jobs[2].id]
    clock.advance(TIMEOUT)
    assert pick() == [jobs[0].id]


def test_a_locked_lease_stops_no_maintenance(records: Records) -> None:
    with records.database.begin() as tx:
        take_lease(tx, "maintenance", "a worker that is gone", database_now(tx), SECOND)
    overdue = records.submit_job()  # for the clock of today
    loop = Maintenance(
        records.database,
        Identity(records.database, 1, records.worker_id),
        DeafBroker(),
        DeafChannel(),
        lane=LaneSettings("lane"),
        worker_timeout=timedelta(days=1),
        retention=timedelta(days=1),
        patience=AT_ONCE,
    )
    with another_session(records.database, "SELECT 1 FROM leases FOR UPDATE"), quickly():
        loop.run_once()
    assert statuses(records)[overdue.id] is Status.FAILED


def test_a_worker_whose_row_is_locked_is_not_taken_for_dead(records: Records, clock: Clock) -> None:
    silent = records.worker()
    clock.advance(2 * TIMEOUT)
    with (
        another_session(records.database, "SELECT 1 FROM workers WHERE id = %s FOR UPDATE", records.worker_id),
        quickly(),
        records.database.begin() as tx,
    ):
        assert give_up_silent(tx, clock(), TIMEOUT) == [silent]


class TestLimits:
    def test_last_for_one_transaction_and_need_no_state_of_the_session(self, database: Database) -> None:
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

    def test_hold_where_no_state_of_a_session_survives(self, records: Records) -> None:
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

    def test_a_lock_is_waited_for_a_second(self, records: Records) -> None:
        with another_session(records.database, "SELECT 1 FROM api_keys FOR UPDATE"), quickly():
            with pytest.raises(OperationalError) as caught:
                records.submit_job()
            assert is_locked(caught.value)
            with unless_locked(), records.database.begin(hurried=True) as tx:
                tx.execute(text("SELECT 1 FROM api_keys FOR UPDATE"))

    def test_who_stops_in_a_transaction_loses_its_locks(self, database: Database, postgres_url: str) -> None:
        """As a host does that loses power: its backend would live on for two hours."""
        other = Database(postgres_url)

        def stop() -> None:
            with other.begin() as tx:
                tx.execute(text("LOCK TABLE leases IN EXCLUSIVE MODE"))
                await_until(lambda: is_free(database), 15, "the locks are still held")

        with pytest.raises(DBAPIError):  # its commit finds no session
            stop()
        other.close()

    def test_a_dead_line_is_noticed_within_ten_seconds(self, database: Database) -> None:
        found = dict(each.split("=") for each in _parameters(database))
        idle, interval, count = (int(found[f"keepalives_{each}"]) for each in ("idle", "interval", "count"))
        assert idle + interval * count <= 10
        assert int(found["tcp_user_timeout"]) <= 10_000

    def test_so_says_the_kernel_of_the_real_line(self, database: Database) -> None:
        """It ends a line whose packets are lost: what was sent is acknowledged within so long, or a probe is."""
        with database.read() as tx:
            driver: Any = tx.connection.dbapi_connection
            with socket.socket(fileno=os.dup(driver.fileno())) as line:

                def option(level: int, name: str) -> int:
                    return line.getsockopt(level, getattr(socket, name))

                assert option(socket.SOL_SOCKET, "SO_KEEPALIVE") == 1
                idle, interval, count = (
                    option(socket.IPPROTO_TCP, f"TCP_KEEP{each}") for each in ("IDLE", "INTVL", "CNT")
                )
                assert idle + interval * count <= 10
                assert 0 < option(socket.IPPROTO_TCP, "TCP_USER_TIMEOUT") <= 10_000

    def test_a_statement_that_takes_too_long_is_ended(self, database: Database) -> None:
        with quickly(), pytest.raises(OperationalError), database.read(within=0.5) as tx:
            tx.execute(text("SELECT pg_sleep(60)"))
        with database.read() as tx:
            assert tx.execute(text("SELECT 1")).scalar_one() == 1

    def test_so_is_a_commit(self, database: Database) -> None:
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


def test_an_api_starts_while_its_own_key_is_locked(database: Database) -> None:
    """None started for as long as a person's transaction held the bootstrap key's row."""
    now = datetime.now(UTC)
    with database.begin() as tx:
        made = ensure_bootstrap_key(tx, "bb_one", now)
    with another_session(database, "SELECT 1 FROM api_keys FOR UPDATE"), quickly(), database.begin() as tx:
        assert ensure_bootstrap_key(tx, "bb_one", now) == made


def test_who_holds_up_others_is_named(records: Records) -> None:
    with capture_logs() as logged, another_session(records.database, "SELECT 1 FROM api_keys FOR UPDATE") as session:

        def is_named() -> bool:
            with pytest.raises(OperationalError):
                records.submit_job()
            return any(each["event"] == "a session holds up others" for each in logged)

        await_until(is_named, 10, "nobody is named")
        named = next(each for each in logged if each["event"] == "a session holds up others")
        assert (named["pid"], named["application"]) == (session.info.backend_pid, "somebody")
        assert (named["state"], named["tables"]) == ("idle in transaction", "api_keys")


class TestSilentLines:
    def test_a_connection_that_a_nat_has_forgotten_is_replaced(self, postgres_url: str) -> None:
        url = make_url(postgres_url)
        assert url.port
        with Proxy("database", url.port) as way:
            database = Database(url.set(port=way.port).render_as_string(hide_password=False))
            with database.read() as tx:
                tx.execute(text("SELECT 1"))
            time_of_last_use = time.monotonic()
            assert way.silence() == 1
            await_until(lambda: time.monotonic() - time_of_last_use > 1.1, 5, "time stands still")
            with quickly(), database.begin() as tx:
                assert tx.execute(text("SELECT 1")).scalar_one() == 1
            database.close()

    def test_a_lease_is_soon_asked_for_again(self, postgres_url: str) -> None:
        """All workers ask for it all the time, so what silences their connections meets each of them at that."""
        url = make_url(postgres_url)
        assert url.port
        with Proxy("database", url.port) as way, ThreadPoolExecutor(1) as threads:
            database = Database(url.set(port=way.port).render_as_string(hide_password=False))
            assert holds_lease(database, "maintenance", "wrk_1", TIMEOUT)
            way.stall()
            asked = threads.submit(holds_lease, database, "maintenance", "wrk_1", TIMEOUT)
            way.silence()
            way.flow()
            with quickly(), pytest.raises(SQLAlchemyError):
                asked.result()
            assert holds_lease(database, "maintenance", "wrk_1", TIMEOUT)
            database.close()

    def test_a_frozen_server_is_not_waited_for(self, postgres_server: PostgresServer) -> None:
        database = Database(postgres_server.url)
        with database.read() as tx:
            tx.execute(text("SELECT 1"))
        postgres_server.freeze()
        with quickly(), pytest.raises(OperationalError), database.begin(within=0.5):
            pass
        postgres_server.thaw()
        with database.begin() as tx:
            assert tx.execute(text("SELECT 1")).scalar_one() == 1
        database.close()

    def test_a_commit_without_an_answer_is_not_known(self, postgres_url: str) -> None:
        url = make_url(postgres_url)
        assert url.port
        with Proxy("database", url.port) as way:
            database = Database(url.set(port=way.port).render_as_string(hide_password=False))

            def write() -> None:
                with database.begin(within=0.5) as tx:
                    tx.execute(text("CREATE TABLE new (id int)"))
                    way.silence()

            with quickly(), pytest.raises(CommitUnknown):
                write()
            database.close()


class TestWhatIsDoneTogether:
    """A worker's claims share a transaction, as do its ends."""

    @contextmanager
    def _claims(self, records: Records, url: str) -> Iterator[Claims]:
        opened = Database(url)
        identity = Identity(opened, 10, records.worker_id)
        yield Claims(opened, identity, LaneKeeper(opened, LaneSettings("lane"), TIMEOUT, records.clock), records.clock)
        opened.close()

    def test_a_silent_line_holds_up_no_other_claim(self, database: Database, postgres_url: str, clock: Clock) -> None:
        records = Records(database, clock)
        first, stuck, *others = [records.submit_job().id for _ in range(6)]
        url = make_url(postgres_url)
        assert url.port
        with Proxy("database", url.port) as way, ThreadPoolExecutor(8) as pool:
            through = url.set(port=way.port).render_as_string(hide_password=False)
            with self._claims(records, through) as claims:
                assert claims.claim(first) is not None
                assert way.silence() == 1
                sent = len(way.passages[0].head)
                late = pool.submit(claims.claim, stuck)
                await_until(lambda: len(way.passages[0].head) > sent, 5, "no claim is under way")
                with quickly():
                    assert all(pool.map(claims.claim, others))
                way.cut(1, Random(0))
                assert late.result(30) is None

    def test_a_locked_row_holds_up_no_other_claim(self, records: Records) -> None:
        stuck, *others = [records.submit_job().id for _ in range(5)]
        url = records.database.url.render_as_string(hide_password=False)
        with self._claims(records, url) as claims, ThreadPoolExecutor(8) as pool:
            with another_session(records.database, "SELECT 1 FROM jobs WHERE id = %s FOR UPDATE", stuck):
                late = pool.submit(claims.claim, stuck)
                with quickly():
                    assert all(pool.map(claims.claim, others))
                assert late.result(30) is None
            assert claims.claim(stuck) is not None


class TestFewConnections:
    @contextmanager
    def _at_most(self, postgres_url: str, most: int, *processes: int) -> Iterator[list[Database]]:
        """Databases of so many connections each, for a role that may have `most` in all."""
        url = make_url(postgres_url)
        role = f"few_{url.database}"
        with psycopg.connect(postgres_url, autocommit=True) as operator:
            operator.execute(f'CREATE ROLE "{role}" LOGIN CONNECTION LIMIT {most}'.encode())
        few = url.set(username=role).render_as_string(hide_password=False)
        opened = [Database(few, pool_size=each) for each in processes]
        yield opened
        for each in opened:
            each.close()
        with psycopg.connect(postgres_url, autocommit=True) as operator:
            await_until(lambda: _dropped(operator, role), 10, "the role is still used")

    def test_who_is_refused_waits_for_one_of_the_own(self, postgres_url: str) -> None:
        with self._at_most(postgres_url, 3, 30) as [database], ThreadPoolExecutor(30) as pool, quickly():
            done = list(pool.map(lambda _: _sleep(database, 0.01), range(200)))
        assert done == [1] * 200

    def test_a_closed_one_opens_again(self, database: Database) -> None:
        database.close()
        with quickly():
            assert _sleep(database, 0) == 1

    def test_processes_share_what_there_is(self, postgres_url: str) -> None:
        with self._at_most(postgres_url, 3, 10, 10, 10) as databases, ThreadPoolExecutor(12) as pool:
            done = list(pool.map(lambda number: _sleep(databases[number % 3], 0.005), range(150)))
        assert done == [1] * 150

    def test_one_that_has_none_waits_until_another_process_lets_go(self, postgres_url: str) -> None:
        with self._at_most(postgres_url, 1, 1, 1) as [first, second]:
            has_one, let_go = threading.Event(), threading.Event()

            def hold() -> None:
                with first.read() as tx:
                    tx.execute(text("SELECT 1"))
                    has_one.set()
                    let_go.wait(10)
                first.engine.dispose()

            with ThreadPoolExecutor(2) as pool:
                held = pool.submit(hold)
                assert has_one.wait(10)
                waiting = pool.submit(_sleep, second, 0.0)
                with pytest.raises(TimeoutError):
                    waiting.result(0.5)
                let_go.set()
                assert waiting.result(10) == 1
                held.result(10)


def _sleep(database: Database, seconds: float) -> int:
    with database.read() as tx:
        one: int = tx.execute(text("SELECT 1 FROM pg_sleep(:seconds)"), {"seconds": seconds}).scalar_one()
    return one


def _dropped(operator: psycopg.Connection, role: str) -> bool:
    try:
        operator.execute(f'DROP ROLE "{role}"'.encode())
    except psycopg.Error:
        return False
    return True
