"""Failover: connections to a server that takes no writes are dropped, and new ones find its successor."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection, make_url
from sqlalchemy.exc import DBAPIError

from jobs.settings import load_settings
from jobs.store.database import CommitUnknown, Database, sqlstate_of
from tests.support.gate import Gate
from tests.support.postgres import Databases, Primary, Standby, either
from tests.support.waiting import await_until

NAME = "database.test"
FORMS = (
    "{user}@{one},{other}/{name}",
    "{user}@/{name}?host={one},{other}",
    "{user}@/{name}?host={one}&host={other}",
)
CLIENT = """
import sys
from jobs.store.database import Database
from tests.store.test_failover import _is_written, port_of
database = Database(sys.argv[1])
for _ in sys.stdin:
    print(port_of(database) if _is_written(database) else "refused", flush=True)
"""
"""Writes once per line of its standard input."""


def _may_unshare() -> bool:
    try:
        return subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def test_connections_go_to_the_successor() -> None:
    with Primary() as primary:
        url = Databases(primary.url).empty()
        with Standby(primary) as standby:
            database = Database(either(primary, standby, url))
            with database.read() as one, database.read() as other:
                ports = {each.exec_driver_sql("SHOW port").scalar_one() for each in (one, other)}
            assert ports == {str(primary.port)}
            await_until(standby.follows, 10, "the standby does not follow")
            primary.demote()
            standby.promote()
            await_until(lambda: _is_written(database), 10, "nothing is written")
            with database.read() as one, database.read() as other:
                ports = {each.exec_driver_sql("SHOW port").scalar_one() for each in (one, other)}
            assert ports == {str(standby.port)}
            database.close()
            for form in FORMS:
                database = Database(_url_in_force(form, primary, standby, url))
                assert port_of(database) == standby.port
                database.close()


@pytest.mark.long
@pytest.mark.skipif(not _may_unshare(), reason="only root gives a process its own /etc/hosts, where it may mount")
def test_a_name_that_has_moved_is_resolved_again(tmp_path: Path) -> None:
    """A failover of a managed server moves its name. Both the old and the new server answer for a while."""
    hosts = tmp_path / "hosts"
    with Primary() as primary:
        url = Databases(primary.url).empty()
        with (
            Standby(primary) as standby,
            Gate(primary.url, "127.0.0.2") as old,
            Gate(standby.url, "127.0.0.3", old.port) as new,
        ):
            old.open()
            new.open()
            hosts.write_text(f"127.0.0.2 {NAME}\n")
            at_name = make_url(url).set(host=NAME, port=old.port).render_as_string(hide_password=False)
            with _client_with_hosts(hosts, at_name) as ask:
                assert ask() == str(primary.port)
                await_until(standby.follows, 10, "the standby does not follow")
                primary.demote()
                standby.promote()
                assert ask() == "refused"
                hosts.write_text(f"127.0.0.3 {NAME}\n")
                await_until(lambda: ask() == str(standby.port), 10, "the name is not looked up again")


@pytest.fixture
def database(postgres_url: str) -> Iterator[Database]:
    database = Database(postgres_url)
    yield database
    database.close()


@pytest.mark.parametrize(
    "code", ["25006", "57P01", "57P02", "57P03", "08000", "08001", "08003", "08004", "08006", "08P01"]
)
def test_an_error_of_a_server_that_goes_away_discards_all_connections(code: str, database: Database) -> None:
    before = _pids(database)
    with pytest.raises(DBAPIError) as caught, database.begin() as tx:
        _fail(tx, code)
    assert sqlstate_of(caught.value) == code
    assert not _pids(database) & before


@pytest.mark.parametrize("code", ["22012", "40001", "42501", "53100"])
def test_any_other_error_discards_no_connection(code: str, database: Database) -> None:
    before = _pids(database)
    with pytest.raises(DBAPIError), database.begin() as tx:
        _fail(tx, code)
    assert _pids(database) == before


@pytest.mark.parametrize("code", ["57P01", "08006"])
def test_a_commit_that_ends_with_such_an_error_is_unknown(code: str, database: Database) -> None:
    before = _pids(database)
    with database.begin() as tx:
        tx.exec_driver_sql("CREATE TABLE late (id int)")
        tx.exec_driver_sql(
            "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION 'gone' USING ERRCODE = '{code}'; END $$"
        )
        tx.exec_driver_sql(
            "CREATE CONSTRAINT TRIGGER fails AFTER INSERT ON late DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW EXECUTE FUNCTION fail()"
        )
    with pytest.raises(CommitUnknown), database.begin() as tx:
        tx.exec_driver_sql("INSERT INTO late VALUES (1)")
    assert not _pids(database) & before


def test_a_terminated_session_discards_all_connections(database: Database) -> None:
    """As `pg_terminate_backend` and a server that shuts down do."""
    before = _pids(database)
    with pytest.raises(DBAPIError), database.begin() as tx:
        tx.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")
    assert not _pids(database) & before


def port_of(database: Database) -> int:
    """Return the port of the server that a connection leads to."""
    with database.read() as tx:
        return int(tx.exec_driver_sql("SHOW port").scalar_one())


@contextmanager
def _client_with_hosts(hosts: Path, url: str) -> Iterator[Callable[[], str]]:
    """Start a process that resolves names by this file; yield a function that has it write and returns its output."""
    program = f'mount --bind {hosts} /etc/hosts && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", program, "sh", sys.executable, "-c", CLIENT, url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdin is not None
        assert client.stdout is not None

        def ask() -> str:
            print(file=client.stdin, flush=True)
            return client.stdout.readline().strip() if client.stdout is not None else ""

        yield ask
        client.stdin.close()


def _url_in_force(form: str, primary: Primary, standby: Standby, url: str) -> str:
    """Return the database URL in force when an operator writes it in this form."""
    one, other = (f"{make_url(each.url).host}:{each.port}" for each in (primary, standby))
    given = form.format(user=make_url(url).username, name=make_url(url).database, one=one, other=other)
    return load_settings(database_url=f"postgresql://{given}").database


def _pids(database: Database) -> set[int]:
    """Return the process ids of the sessions of two connections."""
    with database.read() as one, database.read() as other:
        return {each.exec_driver_sql("SELECT pg_backend_pid()").scalar_one() for each in (one, other)}


def _fail(tx: Connection, code: str) -> None:
    tx.exec_driver_sql(f"DO $$ BEGIN RAISE EXCEPTION 'gone' USING ERRCODE = '{code}'; END $$")


def _is_written(database: Database) -> bool:
    try:
        with database.begin() as tx:
            tx.exec_driver_sql("CREATE TABLE IF NOT EXISTS written (id int)")
    except Exception as error:
        if "read-only" not in str(error):
            raise
        return False
    return True
