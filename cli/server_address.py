"""The server's address and key for the client commands: from the environment, `.env`, and the files of `up`.

Only the client's settings are read and checked. A wrong setting of the server must not stop a client.
"""

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import SettingsConfigDict

from cli.errors import CommandFailed
from jobs.environment import PREFIX
from jobs.environment_settings import EnvironmentSettings

KEY_FILE = "api_key"
DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8000
DEFAULT_DATA_DIR = Path(".backburner")
WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}


class Connection(EnvironmentSettings):
    """The server's address and the caller's key."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_file=".env", env_file_encoding="utf-8", extra="ignore")

    base_url: str | None = None
    api_key: SecretStr | None = None
    host: str = DEFAULT_HOST
    port: Annotated[int, Field(ge=0, le=65535)] = DEFAULT_PORT
    data_dir: Path = DEFAULT_DATA_DIR

    @field_validator("base_url")
    @classmethod
    def _http_url(cls, value: str | None) -> str | None:
        if not value:
            return None
        if not value.startswith(("http://", "https://")):
            raise ValueError("expected a URL that begins with http:// or https://")
        return value.rstrip("/")

    @property
    def url(self) -> str:
        """The API's base URL: as set, or else that of an `up` with these settings."""
        return self.base_url or base_url_of(self.host, self.port)

    def key(self) -> str:
        """Return the API key: as set, or else the one that `up` generated in the data directory.

        Raises:
            CommandFailed: there is no key.
        """
        if self.api_key is not None and (given := self.api_key.get_secret_value().strip()):
            return given
        file = self.data_dir / KEY_FILE
        try:
            if (generated := read_secret(file)) is not None:
                return generated
        except OSError as error:
            raise CommandFailed(f"No API key: BACKBURNER_API_KEY is not set and {file}: {error.strerror}") from None
        raise CommandFailed(f"No API key: set BACKBURNER_API_KEY, or run in the directory where `up` created {file}")


def load_connection() -> Connection:
    """Read the environment.

    Raises:
        CommandFailed: a variable is wrong. The text names it.
    """
    try:
        return Connection()
    except ValidationError as error:
        problems = "; ".join(f"{PREFIX}{str(each['loc'][0]).upper()}: {each['msg']}" for each in error.errors())
        raise CommandFailed(problems.replace("Value error, ", "").replace("Input should be", "expected")) from None


def base_url_of(host: str, port: int) -> str:
    """Return the base URL, for a client on this machine, of an API that listens at `host` and `port`."""
    reachable = WILDCARDS.get(host, host)
    return f"http://{f'[{reachable}]' if ':' in reachable else reachable}:{port}/v1"


def read_secret(file: Path) -> str | None:
    """Return the secret in a file of `up`'s data directory. None if there is none yet.

    Raises:
        OSError: the file exists and cannot be read.
    """
    try:
        return file.read_text("utf-8").strip() or None
    except (FileNotFoundError, NotADirectoryError):
        return None
