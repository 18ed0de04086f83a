"""Many rows by one statement, whose text and plan are the same for any number of them.

`executemany` sends PostgreSQL a message for each row and starts the statement anew for each, which costs both sides
more than all else. So the rows go as one parameter, a JSON array that PostgreSQL unfolds: decision 0005. SQLite runs in
our own process, where nothing is sent; and a single row, which may be large, is not written down twice.
"""

import typing
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final

from sqlalchemy import (
    JSON,
    BindParameter,
    Connection,
    Insert,
    Table,
    TableValuedAlias,
    Text,
    Update,
    bindparam,
    cast,
    column,
    func,
    insert,
    select,
)
from sqlalchemy.sql.visitors import iterate, replacement_traverse
from sqlalchemy.types import TypeEngine

from jobs.encoding import to_json, to_text
from jobs.store.column_types import JsonText
from jobs.store.database import database_clock

Rows = Sequence[Mapping[str, Any]]


def insert_all(tx: Connection, table: Table, rows: Rows, *, clock: str | None = None) -> None:
    """Insert `rows`, which all name the same columns, none of them binary; the column `clock` tells the database's."""
    insert_into_all(tx, {table: rows}, clock=clock)


def insert_into_all(tx: Connection, rows: Mapping[Table, Rows], *, clock: str | None = None) -> None:
    """The same for several tables, those first to which the others refer."""
    filled = {table: each for table, each in rows.items() if each}
    if tx.dialect.name == "postgresql" and any(len(each) > 1 for each in filled.values()):
        shapes = tuple((table, tuple(each[0])) for table, each in filled.items())
        texts = {_rows_of(table): _as_json(table, each) for table, each in filled.items()}
        tx.execute(_inserting(shapes, clock), texts)
        return
    now = {} if clock is None else {clock: database_clock(tx)}
    for table, each in filled.items():
        tx.execute(insert(table).values(now), [dict(row) for row in each])


def update_all(tx: Connection, statement: Update, rows: Rows) -> int:
    """Run `statement` for each of `rows`, its parameters by name, which mean different rows; how many it changed."""
    if tx.dialect.name == "postgresql" and len(rows) > 1:
        return tx.execute(_of_all(statement), {_ROWS: to_json(rows).decode()}).rowcount
    return tx.execute(statement, rows).rowcount


_ROWS: Final = "many_rows"


def _rows_of(table: Table) -> str:
    return f"many_{table.name}"


# Both are built once, as building them takes longer than running them.
@cache
def _inserting(shapes: Sequence[tuple[Table, Sequence[str]]], clock: str | None) -> Insert:
    """One statement for all: PostgreSQL looks whether what they refer to is there at its end."""
    *first, last = (_inserting_into(table, names, clock) for table, names in shapes)
    return last.add_cte(*(each.cte(f"into_{number}") for number, each in enumerate(first)))


def _inserting_into(table: Table, names: Sequence[str], clock: str | None) -> Insert:
    rows = select(*_unfolded(_rows_of(table), {name: table.c[name].type for name in names}).c)
    if clock is None:
        return insert(table).from_select([*names], rows)
    return insert(table).from_select([*names, clock], rows.add_columns(func.clock_timestamp()))


@cache
def _of_all(statement: Update) -> Update:
    """The statement with each of its parameters read from the rows."""
    parameters = (each for each in iterate(statement) if isinstance(each, BindParameter))
    columns = _unfolded(_ROWS, {each.key: each.type for each in parameters if each.required}).c

    def read(element: Any, **_: Any) -> Any:
        return columns.get(element.key) if isinstance(element, BindParameter) else None

    return typing.cast("Update", replacement_traverse(statement, {}, read))


def _unfolded(parameter: str, types: Mapping[str, TypeEngine[Any]]) -> TableValuedAlias:
    given = [column(name, of_type) for name, of_type in types.items()]
    listed = func.json_to_recordset(cast(bindparam(parameter, type_=Text), JSON)).table_valued(*given, name=parameter)
    return listed.render_derived(with_types=True)


def _as_json(table: Table, rows: Rows) -> str:
    texts = [name for name in rows[0] if isinstance(table.c[name].type, JsonText)]
    if texts:
        rows = [{**row, **{name: None if row[name] is None else to_text(row[name]) for name in texts}} for row in rows]
    return to_json(rows).decode()
