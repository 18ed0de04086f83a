"""Run one part, as in production: each command checks the settings, then replaces itself by its part."""

import os
from collections.abc import Sequence
from typing import NoReturn

import migrations
from cli.database import readable_errors
from cli.up import commands
from jobs.settings import load_settings


def become_api(host: str | None, port: int | None) -> NoReturn:
    """Become the HTTP server, at `host` and `port` or those of the settings.

    Raises:
        SettingsError: a variable is wrong.
    """
    settings = load_settings()
    _become(commands.api(host or settings.host, settings.port if port is None else port))


def become_worker(extra: Sequence[str]) -> NoReturn:
    """Become a Celery worker. `extra` is passed on to Celery.

    Raises:
        SettingsError: a variable is wrong.
    """
    load_settings()
    _become(commands.worker(extra))


def become_simulator(arguments: Sequence[str]) -> NoReturn:
    """Become the provider simulator, which parses `arguments` itself."""
    _become(commands.simulator(arguments))


def migrate() -> None:
    """Migrate the database to this release.

    Raises:
        SettingsError: a variable is wrong.
        CommandFailed: the database cannot be reached or changed.
    """
    settings = load_settings()
    with readable_errors(settings):
        migrations.upgrade(settings.database)


def _become(command: tuple[str, ...]) -> NoReturn:
    os.execve(command[0], command, {**os.environ, **commands.environment()})  # noqa: S606  # our own command line
