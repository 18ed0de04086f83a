"""Count waiting rows at each scrape of the metrics: exactly if they are few, by an estimate if they are many."""

from sqlalchemy import ColumnElement, Connection, FromClause, func, literal, select, text

COUNTED = 10_000


def count_waiting(tx: Connection, table: FromClause, which: ColumnElement[bool], index: str) -> int:
    """Count the rows of `table` that match `which`; the count is exact up to `COUNTED`.

    A larger count is PostgreSQL's estimate of the entries in `index`, the partial index over just these rows, from its
    last VACUUM or ANALYZE. SQLite always counts, because it counts a million rows in tens of milliseconds.
    """
    limit = None if tx.dialect.name == "sqlite" else COUNTED
    counted = select(literal(1)).select_from(table).where(which).limit(limit).subquery("counted")
    count = int(tx.execute(select(func.count()).select_from(counted)).scalar_one())
    if limit is None or count < limit:
        return count
    estimate = text("SELECT reltuples FROM pg_class WHERE oid = to_regclass(:index)")
    return max(count, int(tx.execute(estimate, {"index": index}).scalar_one()))
