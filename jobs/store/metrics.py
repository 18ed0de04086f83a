"""How many rows wait, told at each scrape of the metrics: exactly while they are few, cheaply when they are many."""

from sqlalchemy import ColumnElement, Connection, FromClause, func, literal, select, text

COUNTED = 10_000


def count_waiting(tx: Connection, table: FromClause, which: ColumnElement[bool], index: str) -> int:
    """How many rows of `table` are `which`: exact up to `COUNTED`.

    Beyond that PostgreSQL is asked how many entries it believes to be in `index`, the partial index over just these
    rows. It knows since it last vacuumed or analyzed the table. SQLite counts a million in tens of milliseconds.
    """
    limit = None if tx.dialect.name == "sqlite" else COUNTED
    counted = select(literal(1)).select_from(table).where(which).limit(limit).subquery("counted")
    count = int(tx.execute(select(func.count()).select_from(counted)).scalar_one())
    if limit is None or count < limit:
        return count
    believed = text("SELECT reltuples FROM pg_class WHERE oid = to_regclass(:index)")
    return max(count, int(tx.execute(believed, {"index": index}).scalar_one()))
