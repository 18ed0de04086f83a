"""The servers and databases that tests ask for; every xdist worker has its own, started at first use.

Everything that has to do with the database runs twice: on SQLite and on PostgreSQL. What is marked `one_database` has
not, and runs on SQLite.
"""

import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import migrations
from jobs.store.database import Database
from tests.support.clock import Clock
from tests.support.postgres import Databases, PostgresServer, databases
from tests.support.records import Records
from tests.support.valkey import ValkeyServer

BACKENDS = ("sqlite", "postgresql")

# A suite started in the background or under `nohup` ignores these, and so would every process that a test starts.
for _each in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(_each) is signal.SIG_IGN:
        signal.signal(_each, signal.SIG_DFL)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the second run of what is marked `one_database`."""
    second = [item for item in items if item.get_closest_marker("one_database") and _backend(item) == "postgresql"]
    if second:
        config.hook.pytest_deselected(items=second)
        items[:] = [item for item in items if item not in set(second)]


def _backend(item: pytest.Item) -> str | None:
    params = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    return next((str(value) for value in params.values() if value in BACKENDS), None)


@pytest.fixture(scope="session")
def postgres_databases() -> Iterator[Databases]:
    """Makes PostgreSQL databases, on a server that lasts as long as the tests."""
    with databases() as made:
        yield made


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file, to be copied."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    migrations.upgrade(f"sqlite:///{path}")
    return path


@contextmanager
def migrated_database(request: pytest.FixtureRequest, backend: str) -> Iterator[str]:
    """The URL of a migrated database, gone at the end."""
    if backend == "sqlite":
        factory: pytest.TempPathFactory = request.getfixturevalue("tmp_path_factory")
        path = factory.mktemp("database") / "backburner.db"
        shutil.copyfile(request.getfixturevalue("sqlite_template"), path)
        yield f"sqlite:///{path}"
        return
    made: Databases = request.getfixturevalue("postgres_databases")
    url = made.migrated()
    yield url
    made.drop(url)


@pytest.fixture
def postgres_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A migrated PostgreSQL database of the test's own."""
    with migrated_database(request, "postgresql") as url:
        yield url


@pytest.fixture
def sqlite_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A migrated SQLite database of the test's own."""
    with migrated_database(request, "sqlite") as url:
        yield url


@pytest.fixture(params=BACKENDS)
def database_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A migrated database of the test's own, on each database that we support."""
    with migrated_database(request, request.param) as url:
        yield url


@pytest.fixture(scope="module", params=BACKENDS)
def database_url_of_module(request: pytest.FixtureRequest) -> Iterator[str]:
    """A migrated database for all tests of a module, on each database that we support."""
    with migrated_database(request, request.param) as url:
        yield url


@pytest.fixture(params=BACKENDS)
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database without tables, on each database that we support."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'backburner.db'}"
        return
    made: Databases = request.getfixturevalue("postgres_databases")
    url = made.empty()
    yield url
    made.drop(url)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """The store on `database_url`."""
    opened = Database(database_url)
    yield opened
    opened.close()


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still until `clock.advance(span)`."""
    return Clock()


@pytest.fixture
def records(database: Database, clock: Clock) -> Records:
    """Makes keys, workers, and jobs in any status."""
    return Records(database, clock)


@pytest.fixture
def valkey() -> Iterator[ValkeyServer]:
    """A Valkey of the test's own, which it may stop, freeze, flush and restart."""
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def valkey_url(valkey: ValkeyServer) -> str:
    """The Redis URL of `valkey`."""
    return valkey.url


@pytest.fixture(scope="module")
def valkey_url_of_module() -> Iterator[str]:
    """The Redis URL of a Valkey for all tests of a module."""
    with ValkeyServer() as server:
        yield server.url


@pytest.fixture
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server of the test's own, which it may stop, kill, freeze and restart."""
    with PostgresServer() as server:
        yield server
