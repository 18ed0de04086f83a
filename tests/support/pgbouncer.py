"""A PgBouncer in front of a PostgreSQL, from Debian's pgbouncer if that is installed."""

import os
import pwd
import shutil
from pathlib import Path
from typing import Final

import psycopg
from sqlalchemy import make_url

from tests.support.postgres import UNPRIVILEGED
from tests.support.server import HOST, Server

PROGRAM: Final = shutil.which("pgbouncer", path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin")
MISSING: Final = "no PgBouncer on this machine; as root: apt-get install pgbouncer"


class PgBouncerServer(Server):
    """A PgBouncer that lends its few sessions for one transaction each. Like PostgreSQL it refuses to run as root."""

    name = "pgbouncer"

    def __init__(self, postgres_url: str, sessions: int = 3, mode: str = "transaction") -> None:
        super().__init__()
        self._server = make_url(postgres_url)
        self._sessions = sessions
        self._mode = mode

    @property
    def url(self) -> str:
        return self._server.set(host=HOST, port=self.port).render_as_string(hide_password=False)

    def _command(self) -> list[str]:
        assert PROGRAM is not None
        settings = {
            "listen_addr": HOST,
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "any",
            "pool_mode": self._mode,
            "default_pool_size": self._sessions,
            "max_client_conn": 200,
            "server_login_retry": 1,  # seconds without connections after a server failure; 15 by default
        }
        server = f"* = host={self._server.host} port={self._server.port} user={self._server.username or 'postgres'}"
        if self._server.password:
            server += f" password={self._server.password}"
        lines = ["[databases]", server, "[pgbouncer]", *(f"{name} = {value}" for name, value in settings.items())]
        file = self.directory / "pgbouncer.ini"
        file.write_text("\n".join([*lines, ""]))
        command = [PROGRAM, str(file)]
        if os.geteuid() == 0:
            user = pwd.getpwnam(UNPRIVILEGED)
            for path in (self.directory, file):
                os.chown(path, user.pw_uid, user.pw_gid)
            command = ["setpriv", f"--reuid={UNPRIVILEGED}", f"--regid={user.pw_gid}", "--clear-groups", *command]
        return command

    def _answers(self) -> bool:
        try:
            with psycopg.connect(make_url(self.url).set(drivername="postgresql").render_as_string(False)):
                return True
        except psycopg.OperationalError:
            return False


def is_installed() -> bool:
    """Return whether this machine has a PgBouncer."""
    return PROGRAM is not None and Path(PROGRAM).exists()
