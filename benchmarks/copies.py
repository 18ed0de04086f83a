"""A backlog written directly into the tables: copies of one response that was submitted in the usual way."""

from datetime import datetime

from sqlalchemy import ColumnElement, func, insert, literal, select, true

from jobs.lifecycle import Status
from jobs.store import schema
from jobs.store.database import Database

_DIGITS = 8


def copy_job(database: Database, job_id: str, copies: int, *, before: int = 0, due_at: datetime | None = None) -> None:
    """Add copies of the queued job `job_id`, with other ids and, if `due_at` is given, due at that time.

    `before` is the number of copies that exist already. PostgreSQL only.
    """
    numbers = func.generate_series(before + 1, before + copies).table_valued("number").render_derived()
    prefix = job_id[:-_DIGITS]
    copied_id = func.concat(prefix, func.lpad(func.to_hex(numbers.c.number), _DIGITS, "0"))
    with database.begin(within=float("inf")) as tx:
        for table, id_column in ((schema.jobs, schema.jobs.c.id), (schema.requests, schema.requests.c.job_id)):
            changed = {id_column.name: copied_id} | ({"available_at": literal(due_at)} if due_at else {})
            copied = select(*(changed.get(each.name, each) for each in table.c)).select_from(
                table.join(numbers, true())
            )
            tx.execute(insert(table).from_select(list(table.c), copied.where(id_column == job_id)))


def analyze(database: Database) -> None:
    """Analyze the copied jobs at once. PostgreSQL does it by itself only after a while."""
    with database.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.exec_driver_sql("ANALYZE jobs")


def completed(database: Database, since: datetime, until: datetime | None = None) -> int:
    """Count the jobs that were started at `since` or later and have completed by `until`."""
    row = schema.jobs.c
    ended: tuple[ColumnElement[bool], ...] = (row.status == Status.COMPLETED, row.started_at >= since)
    if until is not None:
        ended += (row.completed_at <= until,)
    with database.read() as tx:
        return tx.execute(select(func.count()).where(*ended)).scalar_one()


def queued(database: Database, now: datetime) -> int:
    """Count the jobs that are queued and due."""
    query = select(func.count()).where(schema.IS_QUEUED, schema.jobs.c.available_at <= now)
    with database.read() as tx:
        return tx.execute(query).scalar_one()
