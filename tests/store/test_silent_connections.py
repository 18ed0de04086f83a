"""Connections and servers that stop answering."""

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


def test_a_connection_dropped_by_a_nat_is_replaced(postgres_url: str) -> None:
    proxy, through = Proxy.before(postgres_url)
    with proxy:
        database = Database(through)
        with database.read() as tx:
            tx.execute(text("SELECT 1"))
        time_of_last_use = time.monotonic()
        assert proxy.silence() == 1
        await_until(lambda: time.monotonic() - time_of_last_use > 1.1, 5, "time stands still")
        with quickly(), database.begin() as tx:
            assert tx.execute(text("SELECT 1")).scalar_one() == 1
        database.close()


def test_a_lease_is_renewed_soon_after_its_connection_went_silent(postgres_url: str) -> None:
    """All workers ask for it all the time, so when their connections go silent, each is likely to be asking."""
    proxy, through = Proxy.before(postgres_url)
    with proxy, ThreadPoolExecutor(1) as threads:
        database = Database(through)
        lease = Lease(database, "maintenance", TIMEOUT)
        assert lease.is_held_by("wrk_1")
        proxy.stall()
        asked = threads.submit(lease.is_held_by, "wrk_1")
        proxy.silence()
        proxy.flow()
        with quickly(), pytest.raises(SQLAlchemyError):
            asked.result()
        assert lease.is_held_by("wrk_1")
        database.close()


def test_a_frozen_server_fails_the_transaction_in_time(postgres_server: PostgresServer) -> None:
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


def test_a_commit_without_an_answer_is_unknown(postgres_url: str) -> None:
    proxy, through = Proxy.before(postgres_url)
    with proxy:
        database = Database(through)

        def write() -> None:
            with database.begin(within=0.5) as tx:
                tx.execute(text("CREATE TABLE new (id int)"))
                proxy.silence()

        with quickly(), pytest.raises(CommitUnknown):
            write()
        database.close()
