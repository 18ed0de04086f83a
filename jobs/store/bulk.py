"""Insert and update many rows by one statement, whose text and plan are the same for any number of them.

`executemany` sends PostgreSQL a message for each row and starts the statement again, which costs more than all else. So
the rows are one parameter, a JSON array that PostgreSQL expands: see decision 0004. SQLite runs within the process and
gains nothing by that, and a single row, which may be large, is not copied into JSON.
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
    """Insert `rows`, which all have the same columns, none of them binary.

    The column `clock`, if given, is set to the database's time.
    """
    insert_into_all(tx, {table: rows}, clock=clock)


def insert_into_all(tx: Connection, rows: Mapping[Table, Rows], *, clock: str | None = None) -> None:
    """Insert rows into several tables, as `insert_all`. Tables to which others refer come first."""
    filled = {table: each for table, each in rows.items() if each}
    if tx.dialect.name == "postgresql" and any(len(each) > 1 for each in filled.values()):
        shapes = tuple((table, tuple(each[0])) for table, each in filled.items())
        texts = {_rows_of(table): _as_json(table, each) for table, each in filled.items()}
        tx.execute(_insert(shapes, clock), texts)
        return
    now = {} if clock is None else {clock: database_clock(tx)}
    for table, each in filled.items():
        tx.execute(insert(table).values(now), [dict(row) for row in each])


def update_all(tx: Connection, statement: Update, rows: Rows) -> int:
    """Run `statement` for each of `rows`, which hold its parameters by name, and return the number of changed rows.

    No two of them may change the same row.
    """
    if tx.dialect.name == "postgresql" and len(rows) > 1:
        return tx.execute(_update_from_rows(statement), {_ROWS: to_json(rows).decode()}).rowcount
    return tx.execute(statement, rows).rowcount


_ROWS: Final = "many_rows"


def _rows_of(table: Table) -> str:
    return f"many_{table.name}"


# Cached, because building these statements takes longer than running them.
@cache
def _insert(shapes: Sequence[tuple[Table, Sequence[str]]], clock: str | None) -> Insert:
    """Return one statement for all tables. PostgreSQL checks foreign keys at its end."""
    *first, last = (_insert_into(table, names, clock) for table, names in shapes)
    return last.add_cte(*(each.cte(f"into_{number}") for number, each in enumerate(first)))


def _insert_into(table: Table, names: Sequence[str], clock: str | None) -> Insert:
    rows = select(*_expand(_rows_of(table), {name: table.c[name].type for name in names}).c)
    if clock is None:
        return insert(table).from_select([*names], rows)
    return insert(table).from_select([*names, clock], rows.add_columns(func.clock_timestamp()))


@cache
def _update_from_rows(statement: Update) -> Update:
    """Return the statement with each of its parameters read from the rows."""
    parameters = (each for each in iterate(statement) if isinstance(each, BindParameter))
    columns = _expand(_ROWS, {each.key: each.type for each in parameters if each.required}).c

    def read(element: Any, **_: Any) -> Any:
        return columns.get(element.key) if isinstance(element, BindParameter) else None

    return typing.cast("Update", replacement_traverse(statement, {}, read))


def _expand(parameter: str, types: Mapping[str, TypeEngine[Any]]) -> TableValuedAlias:
    given = [column(name, of_type) for name, of_type in types.items()]
    listed = func.json_to_recordset(cast(bindparam(parameter, type_=Text), JSON)).table_valued(*given, name=parameter)
    return listed.render_derived(with_types=True)


def _as_json(table: Table, rows: Rows) -> str:
    texts = [name for name in rows[0] if isinstance(table.c[name].type, JsonText)]
    if texts:
        rows = [{**row, **{name: None if row[name] is None else to_text(row[name]) for name in texts}} for row in rows]
    return to_json(rows).decode()
