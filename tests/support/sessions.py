"""Other sessions on a test's database, and the limit for waits on them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from jobs.store.database import Database

QUICK = 5.0
"""Seconds. Far shorter than any lock that a test holds."""


@contextmanager
def another_session(database: Database, statement: str, *parameters: object) -> Iterator[psycopg.Connection]:
    """Yield another session with an open transaction, after `statement`."""
    url = database.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url, application_name="somebody") as session:
        session.execute(statement.encode(), parameters)
        yield session


@contextmanager
def quickly() -> Iterator[None]:
    began_at = time.monotonic()
    yield
    assert time.monotonic() - began_at < QUICK
