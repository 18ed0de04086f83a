"""Poolers: statements are prepared on a session of our own, and not on one lent for a transaction."""

import os
import signal
from pathlib import Path
from time import monotonic

import psycopg
import pytest
from sqlalchemy import make_url
from sqlalchemy.exc import OperationalError

from cli.doctor.local import check_database
from jobs.settings import load_settings
from jobs.store.database import Database
from jobs.store.write_probe import failure_reason, write_failure
from tests.support import pgbouncer
from tests.support.pgbouncer import PgBouncerServer

NEEDS_POOLER = pytest.mark.skipif(not pgbouncer.is_installed(), reason=pgbouncer.MISSING)


def prepared(url: str) -> int:
    """Return the number of statements that a connection has prepared after running one five times."""
    database = Database(url, pool_size=1)
    try:
        for _ in range(5):
            with database.begin() as tx:
                tx.exec_driver_sql("SELECT %s::int", (1,))
        with database.read() as tx:
            return len(tx.exec_driver_sql("SELECT name FROM pg_prepared_statements").all())
    finally:
        database.close()


def with_threshold(url: str, threshold: str) -> str:
    return make_url(url).update_query_dict({"prepare_threshold": threshold}).render_as_string(hide_password=False)


def test_statements_are_prepared_on_a_session_of_our_own(postgres_url: str) -> None:
    assert prepared(postgres_url) == 1


@NEEDS_POOLER
def test_no_statement_is_prepared_behind_a_pooler_unless_the_url_asks_for_it(postgres_url: str) -> None:
    with PgBouncerServer(postgres_url) as pooler:
        assert prepared(pooler.url) == 0
        assert prepared(with_threshold(pooler.url, "2")) == 1


@NEEDS_POOLER
def test_statement_pooling_is_named_as_the_fault(postgres_url: str) -> None:
    with PgBouncerServer(postgres_url, mode="statement") as pooler:
        database = Database(pooler.url)
        assert "pool_mode = transaction" in str(write_failure(database))
        database.close()


def test_a_pooler_that_refuses_is_named_as_the_fault() -> None:
    refused = psycopg.errors.ProtocolViolation("server login has been failing, try again later (server_login_retry)")
    assert "a pooler refuses" in str(failure_reason(OperationalError("BEGIN", None, refused)))


@NEEDS_POOLER
def test_a_pooler_without_its_server_fails_in_time(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.store.database.CONNECT_SECONDS", 1)
    with PgBouncerServer(postgres_url) as pooler:
        os.kill(pooler.pid, signal.SIGUSR1)  # pause
        database = Database(pooler.url)
        began_at = monotonic()
        assert database.wrong_encoding() is None
        assert monotonic() - began_at < 10
        database.close()


@NEEDS_POOLER
def test_doctor_names_a_pooler(postgres_url: str, tmp_path: Path) -> None:
    def named(url: str) -> list[str]:
        settings = load_settings(database_url=url, data_dir=str(tmp_path))
        return [each.message for each in check_database(settings, None) if each.name == "pooler"]

    assert named(postgres_url) == []
    with PgBouncerServer(postgres_url) as pooler:
        (message,) = named(pooler.url)
        assert "nothing is prepared on it" in message
        (message,) = named(with_threshold(pooler.url, "2"))
        assert "as prepare_threshold asks" in message


def test_the_url_decides_whether_statements_are_prepared(postgres_url: str) -> None:
    assert prepared(with_threshold(postgres_url, "none")) == 0
    assert prepared(with_threshold(postgres_url, "0")) == 1
    assert prepared(with_threshold(postgres_url, "9")) == 0
    with pytest.raises(ValueError, match="prepare_threshold"):
        prepared(with_threshold(postgres_url, "often"))
