"""The parts one by one, as production runs them: each of these commands checks the settings, then becomes its part."""

import os
from collections.abc import Sequence
from typing import NoReturn

import migrations
from cli.database import readable_errors
from cli.up import commands
from jobs.settings import load_settings


def become_api(host: str | None, port: int | None) -> NoReturn:
    """The HTTP server, at `host` and `port` or where the settings say.

    Raises:
        SettingsError: a variable is wrong.
    """
    settings = load_settings()
    _become(commands.api(host or settings.host, settings.port if port is None else port))


def become_worker(extra: Sequence[str]) -> NoReturn:
    """A Celery worker; `extra` goes to Celery as it stands.

    Raises:
        SettingsError: a variable is wrong.
    """
    load_settings()
    _become(commands.worker(extra))


def become_simulator(arguments: Sequence[str]) -> NoReturn:
    """The stand-in for a provider; it knows its own arguments."""
    _become(commands.simulator(arguments))


def migrate() -> None:
    """Bring the database up to this release.

    Raises:
        SettingsError: a variable is wrong.
        CommandFailed: the database cannot be reached or changed.
    """
    settings = load_settings()
    with readable_errors(settings):
        migrations.upgrade(settings.database)


def _become(command: tuple[str, ...]) -> NoReturn:
    os.execve(command[0], command, {**os.environ, **commands.environment()})  # noqa: S606  # our own command line
