"""Behaviour that both databases share: moments, JSON, and the isolation of transactions."""

import sqlite3
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.exc import StatementError

from jobs.lifecycle import Verb
from jobs.store import schema
from jobs.store.database import Database
from tests.support.clock import START
from tests.support.records import Records, make_spec, move_one, snapshot, submit_one


def write_key(database: Database, name: str, created_at: datetime = START) -> None:
    with database.begin() as tx:
        tx.execute(insert(schema.api_keys).values(id=name, name=name, sha256=name, scopes=[], created_at=created_at))


def names(database: Database) -> list[str]:
    with database.read() as tx:
        return list(tx.execute(select(schema.api_keys.c.name).order_by(schema.api_keys.c.id)).scalars())


class TestUtcDateTimes:
    @pytest.mark.parametrize(
        "moment",
        [
            START,
            datetime(2026, 1, 1, tzinfo=UTC),
            datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=UTC),
            datetime(2026, 7, 1, 1, 30, tzinfo=timezone(timedelta(hours=5, minutes=30))),
            datetime(9999, 12, 30, 23, 59, 59, 999999, tzinfo=UTC),
        ],
    )
    def test_are_read_in_utc_to_the_microsecond(self, moment: datetime, database: Database) -> None:
        write_key(database, "key", moment)
        with database.read() as tx:
            found = tx.execute(select(schema.api_keys.c.created_at)).scalar_one()
        assert found == moment
        assert found.utcoffset() == timedelta(0)

    def test_sort_by_time_with_any_fraction(self, database: Database) -> None:
        moments = [
            START.replace(microsecond=0) + timedelta(microseconds=each) for each in (0, 1, 10, 999_999, 1_000_000)
        ]
        for number, moment in enumerate(reversed(moments)):
            write_key(database, f"key_{number}", moment)
        created_at = schema.api_keys.c.created_at
        with database.read() as tx:
            assert list(tx.execute(select(created_at).order_by(created_at)).scalars()) == moments
            later = tx.execute(select(created_at).where(created_at > moments[0]).order_by(created_at))
            assert list(later.scalars()) == moments[1:]

    def test_without_a_zone_are_refused(self, database: Database) -> None:
        with pytest.raises(StatementError, match="naive"):
            write_key(database, "key", datetime(2026, 1, 1))  # noqa: DTZ001
        assert names(database) == []


@pytest.mark.parametrize(
    "value",
    [
        {"b": 1, "a": [True, None, 0.1, 1e300, -0.0, 12345678901234567890]},
        "\u0000 \ud83d ümläut 🎈 \\ ' \" %s :x",
        [],
        {},
        "",
        0,
        False,
        {"": {"": ""}},
        "x" * 1_000_000,
    ],
)
def test_json_is_stored_unchanged(value: Any, records: Records) -> None:
    job = records.submit_job(input=value)
    with records.database.read() as tx:
        found = tx.execute(select(schema.requests.c.input).where(schema.requests.c.job_id == job.id)).scalar_one()
    assert found == value
    assert type(found) is type(value)
    if isinstance(value, dict):
        assert list(found) == list(value)


class TestTransactions:
    def test_an_error_rolls_the_whole_transaction_back(self, records: Records) -> None:
        job = records.submit_job()
        before = snapshot(records.database)
        with pytest.raises(ZeroDivisionError), records.database.begin() as tx:  # noqa: PT012
            submit_one(tx, make_spec(records.key.id), records.clock())
            move_one(tx, Verb.CANCEL, job, records.clock())
            raise ZeroDivisionError
        assert snapshot(records.database) == before

    def test_uncommitted_rows_are_invisible(self, database: Database) -> None:
        with database.begin() as tx:
            tx.execute(insert(schema.api_keys).values(id="k", name="k", sha256="k", scopes=[], created_at=START))
            assert names(database) == []
        assert names(database) == ["k"]

    def test_threads_share_a_database(self, database: Database) -> None:
        def work(number: int) -> None:
            for each in range(10):
                write_key(database, f"{number}.{each}")
                assert names(database)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(names(database)) == 80

    def test_processes_share_a_database(self, database: Database, database_url: str) -> None:
        """Two engines stand for two processes. One waits for the other's commit and then goes on."""
        other = Database(database_url)
        inside, seen = threading.Event(), list[str]()

        def hold() -> None:
            with other.begin() as tx:
                tx.execute(insert(schema.api_keys).values(id="b", name="b", sha256="b", scopes=[], created_at=START))
                inside.set()
                seen.extend(names(database))

        holder = threading.Thread(target=hold)
        holder.start()
        assert inside.wait(10)
        write_key(database, "a")
        holder.join()
        other.close()
        assert "b" not in seen
        assert names(database) == ["a", "b"]


class TestSqlite:
    def test_a_write_transaction_takes_the_lock_at_its_begin(self, sqlite_url: str) -> None:
        """A transaction that reads first and asks for the lock later would fail halfway."""
        database = Database(sqlite_url)
        with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), timeout=0)) as other:
            for _ in range(2):  # the second time on a connection that has been used for reading
                with database.begin(), pytest.raises(sqlite3.OperationalError, match="locked"):
                    other.execute("BEGIN IMMEDIATE")
                assert names(database) == []
        database.close()

    def test_a_read_holds_no_lock(self, sqlite_url: str) -> None:
        database = Database(sqlite_url)
        with database.read() as tx:
            tx.execute(select(schema.api_keys)).all()
            write_key(database, "k")
            assert len(tx.execute(select(schema.api_keys)).all()) == 1
        database.close()

    def test_commits_survive_power_loss_and_foreign_keys_hold(self, sqlite_url: str) -> None:
        database = Database(sqlite_url)
        for open_connection in (database.begin, database.read):
            with open_connection() as tx:
                found = {
                    name: tx.execute(text(f"PRAGMA {name}")).scalar_one()
                    for name in ("journal_mode", "synchronous", "foreign_keys")
                }
            assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
        database.close()

    def test_the_directory_is_private_to_its_owner(self, tmp_path: Path) -> None:
        directory = tmp_path / "a" / "b"
        Database(f"sqlite:///{directory / 'backburner.db'}").close()
        assert directory.stat().st_mode & 0o777 == 0o700
