"""A database whose encoding cannot hold every text is refused, with the command to create one that can."""

import os
import subprocess
import sys
from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import make_url

from cli.up.commands import API
from jobs.store.database import Database
from jobs.store.write_probe import write_failure
from tests.support.postgres import Databases

COMMANDS = {
    "migrate": ["-m", "cli.main", "migrate"],
    "api": [*API, "--port", "0"],
    "worker": ["-m", "worker.celery_adapter.command"],
    "doctor": ["-m", "cli.main", "doctor"],
}


@pytest.fixture(params=["SQL_ASCII", "LATIN1"])
def other(request: pytest.FixtureRequest, postgres_databases: Databases) -> Iterator[tuple[str, str]]:
    """Return an encoding and the URL of a database in it."""
    url = postgres_databases.empty()
    name = make_url(url).database
    other = make_url(url).set(database=f"{name}_other").render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            f"CREATE DATABASE \"{name}_other\" ENCODING '{request.param}' LOCALE 'C' TEMPLATE template0".encode()
        )
    yield request.param, other
    for each in (other, url):
        postgres_databases.drop(each)


def test_readiness_refuses_it(other: tuple[str, str]) -> None:
    encoding, url = other
    database = Database(url)
    assert f"its encoding is {encoding}" in str(write_failure(database))
    database.close()


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("other", ["LATIN1"], indirect=True)
def test_every_command_refuses_it_in_one_line(command: str, other: tuple[str, str], tmp_path: os.PathLike[str]) -> None:
    encoding, url = other
    variables = {
        "BACKBURNER_DATABASE_URL": url,
        "BACKBURNER_DATA_DIR": str(tmp_path),
        "BACKBURNER_API_KEY": "bb_" + "x" * 20,
    }
    done = subprocess.run(
        [sys.executable, *COMMANDS[command]],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    output = done.stdout + done.stderr
    assert done.returncode != 0, output
    assert "Traceback" not in output
    assert f"its encoding is {encoding}, and it must be UTF8" in " ".join(output.split())
    assert f"CREATE DATABASE \"{make_url(url).database}_utf8\" ENCODING 'UTF8'" in " ".join(output.split())


def test_the_command_creates_one_that_is_accepted(other: tuple[str, str], postgres_databases: Databases) -> None:
    _, url = other
    database = Database(url)
    reason = database.wrong_encoding()
    database.close()
    assert reason is not None
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(reason.partition("Make one by: ")[2].encode())
    made = make_url(url).set(database=f"{make_url(url).database}_utf8").render_as_string(hide_password=False)
    database = Database(made)
    assert database.wrong_encoding() is None
    database.close()
    postgres_databases.drop(made)
