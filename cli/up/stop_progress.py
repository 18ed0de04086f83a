"""Report on a stop that takes long: the paid answers that a worker has yet to record, and what prevents it."""

import sqlite3
from contextlib import closing
from pathlib import Path

from sqlalchemy import make_url, text
from sqlalchemy.exc import SQLAlchemyError

from cli.database import reason_of
from jobs.outcome_files import unrecorded_files
from jobs.settings import Settings
from jobs.store.database import Database


def unrecorded_answers(settings: Settings) -> str | None:
    """Describe the paid answers in the data directory that are not recorded yet. None if there are none."""
    count = len(unrecorded_files(settings.data_dir))
    if count == 0:
        return None
    reason = _why_not_writable(settings)
    answers = f"recording {count} paid answer{'s' if count > 1 else ''}"
    return f"{answers}, {reason}" if reason else answers


def _why_not_writable(settings: Settings) -> str | None:
    """Return why the database takes no writes at the moment. None if it takes one."""
    url = make_url(settings.database)
    if url.get_backend_name() != "sqlite":
        return _why_not_reachable(settings)
    try:
        with closing(
            sqlite3.connect(f"{Path(url.database or '').absolute().as_uri()}?mode=rw", uri=True, timeout=0)
        ) as connection:
            connection.execute("BEGIN IMMEDIATE")
    except sqlite3.Error as error:
        return f"the {error}" if str(error).startswith("database") else f"the database: {error}"
    return None


def _why_not_reachable(settings: Settings) -> str | None:
    database = Database(settings.database, pool_size=1)
    try:
        with database.begin() as tx:
            tx.execute(text("SELECT 1"))
    except SQLAlchemyError as error:
        return f"the database: {reason_of(error)}"
    finally:
        database.close()
    return None
