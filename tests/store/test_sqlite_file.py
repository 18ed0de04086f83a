"""SQLite's file is replaced, deleted or overwritten under a running server, by a restore or a clean-up."""

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import insert, select, text

from jobs.store import schema
from jobs.store.database import Database
from jobs.store.sqlite_file import FileReplaced
from tests.support.clock import START

OTHER_PROCESS = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
connection.execute("PRAGMA wal_autocheckpoint=3")
connection.execute("CREATE TABLE IF NOT EXISTS growing (content)")
until = time.monotonic() + 1.5
while time.monotonic() < until:
    connection.execute("INSERT INTO growing VALUES (randomblob(20000))")
    connection.execute("DELETE FROM growing WHERE rowid % 7 = 0")
"""


def delete(path: Path) -> None:
    path.unlink()


def replace(path: Path) -> None:
    """Move another file into its place, as a restore does."""
    restored = path.with_name("restored.db")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("VACUUM INTO ?", (str(restored),))
    restored.replace(path)


def delete_the_log(path: Path) -> None:
    path.with_name(f"{path.name}-wal").unlink()


def write(database: Database, name: str) -> None:
    with database.begin() as tx:
        row = {"id": name, "name": name, "sha256": name, "scopes": [], "created_at": START}
        tx.execute(insert(schema.api_keys).values(row))


def refusal_of(database: Database) -> str | None:
    try:
        database.check_file()
    except FileReplaced as error:
        return str(error.orig)
    return None


@pytest.mark.parametrize("does", [delete, replace, delete_the_log])
def test_nothing_is_written_once_the_file_is_gone(sqlite_url: str, does: Callable[[Path], None]) -> None:
    path = Path(sqlite_url.removeprefix("sqlite:///"))
    database = Database(sqlite_url)
    write(database, "before")
    assert refusal_of(database) is None
    does(path)
    assert f"{path} was replaced or deleted while the server runs" in str(refusal_of(database))
    for each in (database, database.open_not_durable()):
        with pytest.raises(FileReplaced):
            write(each, "after")
    with database.read() as tx:
        assert tx.execute(select(schema.api_keys.c.id)).scalars().all() == ["before"]
    database.close()


def test_a_restored_file_is_not_damaged_by_the_log_of_the_old_one(sqlite_url: str) -> None:
    path = Path(sqlite_url.removeprefix("sqlite:///"))
    database = Database(sqlite_url)
    write(database, "restored")
    assert refusal_of(database) is None
    restored = path.with_name("restored.db")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("VACUUM INTO ?", (str(restored),))
    for number in range(50):
        write(database, f"later {number}")
    restored.replace(path)
    assert refusal_of(database) is not None
    database.close()
    again = Database(sqlite_url)
    with again.read() as tx:
        assert tx.execute(text("PRAGMA integrity_check")).scalar_one() == "ok"
        assert tx.execute(select(schema.api_keys.c.id)).scalars().all() == ["restored"]
    again.close()


def test_another_file_is_not_opened_beside_the_old_one(sqlite_url: str) -> None:
    path = Path(sqlite_url.removeprefix("sqlite:///"))
    database = Database(sqlite_url)
    with database.read() as tx:
        path.unlink()
        with pytest.raises(FileReplaced), database.read():
            pass
        assert tx.execute(select(schema.api_keys)).all() == []
    assert not path.exists()
    database.close()


def test_a_file_that_is_put_back_is_written_again(sqlite_url: str) -> None:
    path = Path(sqlite_url.removeprefix("sqlite:///"))
    database = Database(sqlite_url)
    write(database, "before")
    aside = path.rename(path.with_name("aside.db"))
    assert refusal_of(database) is not None
    aside.rename(path)
    write(database, "after")
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM api_keys").fetchone() == (2,)
    database.close()


def overwrite(path: Path, backup: Path) -> None:
    """Write other contents into the same file, as `cp` does."""
    before = path.stat().st_ino
    shutil.copyfile(backup, path)
    assert path.stat().st_ino == before


def test_an_overwritten_file_is_detected(sqlite_url: str) -> None:
    path = Path(sqlite_url.removeprefix("sqlite:///"))
    database = Database(sqlite_url)
    with database.read() as tx:
        tx.execute(select(schema.api_keys)).all()
    assert refusal_of(database) is None  # a check before the log exists
    write(database, "restored")
    backup = path.with_name("backup.db")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("VACUUM INTO ?", (str(backup),))
    for number in range(50):
        write(database, f"later {number}")
    overwrite(path, backup)
    for _ in range(2):
        with pytest.raises(FileReplaced, match="was overwritten while the server runs"):
            write(database, "too late")
    assert path.read_bytes() == backup.read_bytes()  # nothing was written to it
    database.close()
    for each in ("-wal", "-shm"):
        path.with_name(path.name + each).unlink(missing_ok=True)
    overwrite(path, backup)
    again = Database(sqlite_url)
    write(again, "after")
    with again.read() as tx:
        assert tx.execute(select(schema.api_keys.c.id)).scalars().all() == ["after", "restored"]
    again.close()


def test_a_checkpoint_is_not_taken_for_an_overwrite(sqlite_url: str) -> None:
    """Another process writes and reads meanwhile, and the file is touched."""
    path = Path(sqlite_url.removeprefix("sqlite:///"))
    other = [sys.executable, "-c", OTHER_PROCESS, str(path)]
    database = Database(sqlite_url)
    checks = 0
    with subprocess.Popen(other, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            path.touch()
            database.check_file()
            if (checks := checks + 1) % 20 == 0:
                write(database, f"ours {checks}")
    assert process.returncode == 0
    assert checks > 100
    database.close()


def test_the_log_has_a_size_limit(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    with database.begin() as tx:
        assert tx.execute(text("PRAGMA journal_size_limit")).scalar_one() == 64 * 1024 * 1024
    database.close()
