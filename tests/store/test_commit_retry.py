"""An outcome is recorded however long the database takes, and soon if only a connection has gone silent."""

import time

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DataError

from jobs.store.database import Database
from tests.chaos.proxy import Proxy
from worker import commit_retry

FIRST_SECONDS = 1.0


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit_retry, "TOGETHER_SECONDS", FIRST_SECONDS)


def test_a_silent_connection_is_dropped_after_the_first_try(postgres_url: str) -> None:
    proxy, through = Proxy.before(postgres_url)
    with proxy:
        database = Database(through)
        assert commit_retry.commit_with_retry(database, _one) == 1
        assert proxy.silence() == 1
        begun = time.monotonic()
        assert commit_retry.commit_with_retry(database, _one) == 1
        assert time.monotonic() - begun < FIRST_SECONDS + 4
        database.close()


def test_a_slow_transaction_is_given_more_time(postgres_url: str) -> None:
    database = Database(postgres_url)

    def slowly(tx: Connection) -> int:
        tx.execute(text("SELECT pg_sleep(1.3)"))
        return _one(tx)

    assert commit_retry.commit_with_retry(database, slowly) == 1
    database.close()


def _one(tx: Connection) -> int:
    return int(tx.execute(text("SELECT 1")).scalar_one())


def test_an_outcome_that_cannot_be_stored_is_not_tried_forever(postgres_url: str) -> None:
    database = Database(postgres_url)
    with pytest.raises(DataError):
        commit_retry.commit_with_retry(database, lambda tx: tx.execute(text("SELECT 'one'::int")))
    database.close()
