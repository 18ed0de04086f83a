"""The database for the operator's commands, with readable errors."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

import migrations
from cli.errors import CommandFailed
from jobs.settings import Settings
from jobs.store.database import Database
from jobs.telemetry import log_to_stderr


@contextmanager
def open_database(settings: Settings) -> Iterator[Database]:
    """Yield the database of `settings`, after checking that it has the tables of this release.

    Raises:
        CommandFailed: it cannot be reached, or its tables are not those of this release.
    """
    log_to_stderr()
    database = Database(settings.database, pool_size=1)
    try:
        with readable_errors(settings):
            with database.read() as tx:
                if not migrations.is_current(tx):
                    raise CommandFailed(f"{shown(settings)} is not at this release: run `backburner migrate` first")
            yield database
    finally:
        database.close()


@contextmanager
def readable_errors(settings: Settings) -> Iterator[None]:
    """Turn database errors of the block into one line.

    Raises:
        CommandFailed: the block raised a database error.
    """
    try:
        yield
    except SQLAlchemyError as error:
        raise CommandFailed(f"BACKBURNER_DATABASE_URL: {shown(settings)}: {reason_of(error)}") from None


def shown(settings: Settings) -> str:
    """Return the database's URL without its password."""
    return make_url(settings.database).render_as_string(hide_password=True)


def reason_of(error: SQLAlchemyError) -> str:
    """Return the first line of the driver's error. SQLAlchemy's own text would repeat statements and parameters."""
    text = str(error.orig if isinstance(error, DBAPIError) else error).strip()
    return text.splitlines()[0] if text else type(error).__name__
