"""Sessions of others on a test's database, and how long one may wait for them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from jobs.store.database import Database

QUICK = 5.0
"""In seconds: far below any lock of a test, which lasts as long as the test wants."""


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
