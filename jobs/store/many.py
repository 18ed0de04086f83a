"""Many rows by one statement, whose text and plan are the same for any number of them.

`executemany` sends PostgreSQL a message for each row and starts the statement anew for each, which costs both sides
more than all else. So the rows go as one parameter, a JSON array that PostgreSQL unfolds: decision 0061. SQLite runs in
our own process, where nothing is sent; and a single row, which may be large, is not written down twice.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final

from pydantic_core import to_json
from sqlalchemy import JSON, Connection, Insert, Table, Text, bindparam, cast, column, func, insert, select

from jobs.store.columns import JsonText, json_text
from jobs.store.database import database_clock


def insert_all(tx: Connection, table: Table, rows: Sequence[Mapping[str, Any]], *, clock: str | None = None) -> None:
    """Insert `rows`, which all name the same columns, none of them binary; the column `clock` tells the database's."""
    if tx.dialect.name == "postgresql" and len(rows) > 1:
        tx.execute(_inserting(table, tuple(rows[0]), clock), {_ROWS: _as_json(table, rows)})
    elif rows:
        now = {} if clock is None else {clock: database_clock(tx)}
        tx.execute(insert(table).values(now), [dict(row) for row in rows])


_ROWS: Final = "many_rows"


@cache
def _inserting(table: Table, names: tuple[str, ...], clock: str | None) -> Insert:
    """Built once, as building it takes longer than running it."""
    given = [column(name, table.c[name].type) for name in names]
    listed = func.json_to_recordset(cast(bindparam(_ROWS, type_=Text), JSON)).table_valued(*given)
    unfolded = select(*listed.render_derived(with_types=True).c)
    if clock is None:
        return insert(table).from_select([*names], unfolded)
    return insert(table).from_select([*names, clock], unfolded.add_columns(func.clock_timestamp()))


def _as_json(table: Table, rows: Sequence[Mapping[str, Any]]) -> str:
    texts = [name for name in rows[0] if isinstance(table.c[name].type, JsonText)]
    if texts:
        rows = [{**row, **{name: json_text(row[name]) for name in texts}} for row in rows]
    return to_json(rows).decode()
