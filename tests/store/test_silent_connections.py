"""A connection that says nothing is not waited for."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from jobs.store.database import CommitUnknown, Database
from tests.chaos.proxy import Proxy
from tests.support.postgres import PostgresServer
from tests.support.sessions import quickly
from tests.support.waiting import await_until
from worker.maintenance.lease import Lease

TIMEOUT = timedelta(seconds=10)


def test_a_connection_that_a_nat_has_forgotten_is_replaced(postgres_url: str) -> None:
    way, through = Proxy.before(postgres_url)
    with way:
        database = Database(through)
        with database.read() as tx:
            tx.execute(text("SELECT 1"))
        time_of_last_use = time.monotonic()
        assert way.silence() == 1
        await_until(lambda: time.monotonic() - time_of_last_use > 1.1, 5, "time stands still")
        with quickly(), database.begin() as tx:
            assert tx.execute(text("SELECT 1")).scalar_one() == 1
        database.close()


def test_a_lease_is_soon_asked_for_again(postgres_url: str) -> None:
    """All workers ask for it all the time, so what silences their connections meets each of them at that."""
    way, through = Proxy.before(postgres_url)
    with way, ThreadPoolExecutor(1) as threads:
        database = Database(through)
        lease = Lease(database, "maintenance", TIMEOUT)
        assert lease.is_held_by("wrk_1")
        way.stall()
        asked = threads.submit(lease.is_held_by, "wrk_1")
        way.silence()
        way.flow()
        with quickly(), pytest.raises(SQLAlchemyError):
            asked.result()
        assert lease.is_held_by("wrk_1")
        database.close()


def test_a_frozen_server_is_not_waited_for(postgres_server: PostgresServer) -> None:
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


def test_a_commit_without_an_answer_is_not_known(postgres_url: str) -> None:
    way, through = Proxy.before(postgres_url)
    with way:
        database = Database(through)

        def write() -> None:
            with database.begin(within=0.5) as tx:
                tx.execute(text("CREATE TABLE new (id int)"))
                way.silence()

        with quickly(), pytest.raises(CommitUnknown):
            write()
        database.close()
