"""The connection pool when the server allows only a few connections."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psycopg
import pytest
from sqlalchemy import make_url, text

from jobs.store.database import Database
from tests.support.sessions import quickly
from tests.support.waiting import await_until


@contextmanager
def at_most(postgres_url: str, most: int, *processes: int) -> Iterator[list[Database]]:
    """Yield databases with pools of these sizes, for a role that may have `most` connections in all."""
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


def test_after_a_refusal_the_pool_waits_for_one_of_its_own_connections(postgres_url: str) -> None:
    with at_most(postgres_url, 3, 30) as [database], ThreadPoolExecutor(30) as pool, quickly():
        done = list(pool.map(lambda _: _sleep(database, 0.01), range(200)))
    assert done == [1] * 200


def test_a_closed_pool_opens_again(postgres_database: Database) -> None:
    postgres_database.close()
    with quickly():
        assert _sleep(postgres_database, 0) == 1


def test_processes_share_the_allowed_connections(postgres_url: str) -> None:
    with at_most(postgres_url, 3, 10, 10, 10) as databases, ThreadPoolExecutor(12) as pool:
        done = list(pool.map(lambda number: _sleep(databases[number % 3], 0.005), range(150)))
    assert done == [1] * 150


def test_a_process_without_a_connection_waits_until_another_releases_one(postgres_url: str) -> None:
    with at_most(postgres_url, 1, 1, 1) as [first, second]:
        has_one, release = threading.Event(), threading.Event()

        def hold() -> None:
            with first.read() as tx:
                tx.execute(text("SELECT 1"))
                has_one.set()
                release.wait(10)
            first.engine.dispose()

        with ThreadPoolExecutor(2) as pool:
            held = pool.submit(hold)
            assert has_one.wait(10)
            waiting = pool.submit(_sleep, second, 0.0)
            with pytest.raises(TimeoutError):
                waiting.result(0.5)
            release.set()
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
