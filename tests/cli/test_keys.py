"""`backburner keys`, directly on the database."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cli.main import app
from jobs.lifecycle import Status
from jobs.store.api_keys import Scope, find_key
from jobs.store.database import Database
from tests.support.records import Records, make_key

Keys = Callable[..., Result]


@pytest.fixture
def keys(home: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Keys:
    """Return a function that runs `backburner keys`, on each supported database."""
    monkeypatch.setenv("BACKBURNER_DATABASE_URL", database_url)
    return lambda *arguments: CliRunner().invoke(app, ["keys", *arguments])


def test_a_key_is_shown_once_and_works_until_it_is_revoked(keys: Keys, database: Database) -> None:
    made = json.loads(keys("create", "alice", "--json").stdout)
    assert set(made) == {"id", "name", "key"}
    assert made["name"] == "alice"
    with database.read() as tx:
        found = find_key(tx, made["key"])
    assert found is not None
    assert (found.id, found.scopes) == (made["id"], frozenset(Scope))

    listed = keys("list").stdout
    assert made["id"] in listed
    assert made["key"] not in listed

    assert keys("revoke", made["id"]).stdout == f"{made['id']} (alice) is revoked\n"
    with database.read() as tx:
        assert find_key(tx, made["key"]) is None
    (row,) = json.loads(keys("list", "--json").stdout)["data"]
    assert row["revoked_at"] is not None


def test_a_keys_jobs_are_cancelled_and_counted(keys: Keys, records: Records) -> None:
    for status in (Status.QUEUED, Status.QUEUED, Status.IN_PROGRESS, Status.COMPLETED):
        records.job_in(status)
    other = make_key(records.database, "other")
    others = records.submit_job(other)
    assert keys("cancel-jobs", records.key.id).stdout == "3 cancelled: 2 queued, 1 in progress\n"
    assert keys("cancel-jobs", records.key.id).stdout == "0 cancelled: 0 queued, 0 in progress\n"
    assert records.reload(others).status is Status.QUEUED
    done = json.loads(keys("revoke", other.id, "--cancel-jobs", "--json").stdout)
    assert done["cancelled"] == {"in_progress": 0, "queued": 1}
    assert done["revoked_at"] is not None
    assert records.reload(others).status is Status.CANCELLED


def test_stdout_has_only_the_key(keys: Keys, database: Database) -> None:
    done = keys("create", "bob")
    with database.read() as tx:
        assert find_key(tx, done.stdout.strip()) is not None
    assert "the only time" in done.stderr


def test_a_key_may_be_limited(keys: Keys, database: Database) -> None:
    made = json.loads(keys("create", "eve", "--scope", "responses:read", "--scope", "usage:read", "--json").stdout)
    with database.read() as tx:
        found = find_key(tx, made["key"])
    assert found is not None
    assert found.scopes == {Scope.RESPONSES_READ, Scope.USAGE_READ}
    assert "responses:read, usage:read" in keys("list").stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("create", "eve", "--scope", "everything"), "--scope everything: expected one of responses:read"),
        (("revoke", "key_unknown"), "There is no key key_unknown"),
        (("cancel-jobs", "key_unknown"), "There is no key key_unknown"),
    ],
)
def test_a_failure_is_one_line(keys: Keys, arguments: tuple[str, ...], words: str) -> None:
    done = keys(*arguments)
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert words in done.stderr


def test_a_database_without_tables_is_reported(
    home: Path, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKBURNER_DATABASE_URL", empty_database_url)
    done = CliRunner().invoke(app, ["keys", "list"])
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert "run `backburner migrate` first" in done.stderr
