"""Connections that a burst has opened are closed again when they are idle."""

from threading import Barrier, Thread

import pytest

from jobs.store import connection_pool
from jobs.store.database import Database
from tests.support.waiting import await_until

BURST = 12


def test_connections_of_a_burst_are_closed(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_pool, "SPARE_SECONDS", 0.5)
    database = Database(postgres_url)
    together = Barrier(BURST)

    def read() -> None:
        with database.read() as tx:
            tx.exec_driver_sql("SELECT 1")
            together.wait()

    threads = [Thread(target=read) for _ in range(BURST)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert count(database) >= BURST
    await_until(lambda: count(database) == 1, 5, "idle connections stay open")
    database.close()


def count(database: Database) -> int:
    """Return the number of connections to this database."""
    with database.read() as tx:
        return int(
            tx.exec_driver_sql(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name = 'backburner'"
            ).scalar_one()
        )
