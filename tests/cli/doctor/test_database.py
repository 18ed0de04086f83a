"""Checks of the database: its release, its locks and its connections."""

import sqlite3
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from jobs.store import workers
from jobs.store.database import Database, database_now
from tests.cli.doctor.diagnosis import diagnose


def test_a_database_of_another_release_is_an_error(healthy: pytest.MonkeyPatch, home: Path) -> None:
    healthy.setenv("BACKBURNER_DATABASE_URL", f"sqlite:///{home / 'empty.db'}")
    status, results = diagnose()
    assert (status, results["database"][0]["hint"]) == (1, "run: backburner migrate")


def test_a_held_write_lock_of_sqlite_is_an_error_of_the_database(healthy: pytest.MonkeyPatch, sqlite_url: str) -> None:
    with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        status, results = diagnose()
    assert status == 1
    assert "another process has held its write lock for 2 s" in results["database"][0]["message"]
    assert "worker" not in results


def test_locks_and_connections_of_postgresql(healthy: pytest.MonkeyPatch, postgres_url: str) -> None:
    healthy.setenv("BACKBURNER_DATABASE_URL", postgres_url)
    database = Database(postgres_url)
    with database.begin() as tx:
        for number in range(40):
            workers.register(tx, "here", number, 100, database_now(tx))
    database.close()
    _, results = diagnose()
    [locks] = results["locks"]
    assert locks["status"] == "ok"
    [connections] = results["connections"]
    assert connections["status"] == "warning"
    assert connections["message"].startswith("0 API processes and 40 workers may open 880 connections")
    with psycopg.connect(postgres_url, application_name="somebody") as session:
        session.execute("SELECT 1 FROM workers FOR UPDATE")
        healthy.setattr("cli.doctor.database.LONG_SECONDS", 0.0)
        _, results = diagnose()
        [locks] = results["locks"]
        assert locks["message"].startswith(f"session {session.info.backend_pid} (somebody, user ")
        assert locks["message"].endswith("0 waiting, tables: workers")
        assert f"pg_terminate_backend({session.info.backend_pid})" in locks["hint"]


def test_a_session_that_locks_a_table_is_reported_within_seconds(
    healthy: pytest.MonkeyPatch, postgres_url: str
) -> None:
    """`doctor` waited half a minute for the lock, and then did not name the session."""
    healthy.setenv("BACKBURNER_DATABASE_URL", postgres_url)
    healthy.setattr("cli.doctor.database.LONG_SECONDS", 0.0)
    healthy.setattr("cli.doctor.local.LONG_SECONDS", 0.5)
    with psycopg.connect(postgres_url, application_name="somebody") as session:
        session.execute("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
        status, results = diagnose()
        assert status == 1
        assert results["database"][0]["status"] == "error"
        assert results["locks"][0]["message"].startswith(f"session {session.info.backend_pid} (somebody, user ")
