"""A backlog put straight into the tables: copies of one response that was accepted in the usual way."""

from datetime import datetime

from sqlalchemy import ColumnElement, Table, func, insert, select, true

from jobs.lifecycle import Status
from jobs.store import tables
from jobs.store.database import Database

_DIGITS = 8


def copy_job(database: Database, job_id: str, copies: int) -> None:
    """Add so many jobs that differ from `job_id`, which must be queued, by their ids alone. PostgreSQL only."""
    numbers = func.generate_series(1, copies).table_valued("number").render_derived()
    prefix = job_id[:-_DIGITS]
    copied_id = func.concat(prefix, func.lpad(func.to_hex(numbers.c.number), _DIGITS, "0"))
    with database.begin() as tx:
        for table, id_column in ((tables.jobs, tables.jobs.c.id), (tables.requests, tables.requests.c.job_id)):
            copied = select(*_columns(table, id_column, copied_id)).select_from(table.join(numbers, true()))
            tx.execute(insert(table).from_select(list(table.c), copied.where(id_column == job_id)))
    with database.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.exec_driver_sql("ANALYZE jobs")


def completed(database: Database, since: datetime, until: datetime | None = None) -> tuple[int, datetime, datetime]:
    """How many jobs that were begun at `since` or later have completed by `until`; the first begin and the last end."""
    row = tables.jobs.c
    ended: tuple[ColumnElement[bool], ...] = (row.status == Status.COMPLETED, row.started_at >= since)
    if until is not None:
        ended += (row.completed_at <= until,)
    query = select(func.count(), func.min(row.started_at), func.max(row.completed_at)).where(*ended)
    with database.read() as tx:
        count, begun, last = tx.execute(query).one()
    return count, begun or since, last or since


def _columns(table: Table, id_column: ColumnElement[str], copied_id: ColumnElement[str]) -> list[ColumnElement[str]]:
    return [copied_id.label(each.name) if each is id_column else each for each in table.c]
