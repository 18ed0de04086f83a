"""What a worker that is to stop has yet to record, and why it cannot: for whoever waits for it."""

import sqlite3
from contextlib import closing
from pathlib import Path

from sqlalchemy import make_url, text
from sqlalchemy.exc import SQLAlchemyError

from cli.database import reason_of
from jobs.outcome_files import unrecorded_files
from jobs.settings import Settings
from jobs.store.database import Database


def recording(settings: Settings) -> str | None:
    """How many paid answers wait in the data folder to be recorded, in words; None when none do."""
    count = len(unrecorded_files(settings.data_dir))
    if count == 0:
        return None
    reason = _reason(settings)
    answers = f"recording {count} paid answer{'s' if count > 1 else ''}"
    return f"{answers}, {reason}" if reason else answers


def _reason(settings: Settings) -> str | None:
    """Why the database takes no writes just now; None if it takes one."""
    url = make_url(settings.database)
    if url.get_backend_name() != "sqlite":
        return _reason_of_a_server(settings)
    try:
        with closing(
            sqlite3.connect(f"{Path(url.database or '').absolute().as_uri()}?mode=rw", uri=True, timeout=0)
        ) as connection:
            connection.execute("BEGIN IMMEDIATE")
    except sqlite3.Error as error:
        return f"the {error}" if str(error).startswith("database") else f"the database: {error}"
    return None


def _reason_of_a_server(settings: Settings) -> str | None:
    database = Database(settings.database, pool_size=1)
    try:
        with database.begin() as tx:
            tx.execute(text("SELECT 1"))
    except SQLAlchemyError as error:
        return f"the database: {reason_of(error)}"
    finally:
        database.close()
    return None
