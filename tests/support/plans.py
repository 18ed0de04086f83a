"""Query plans of the captured SQL of the store."""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
from sqlalchemy import Connection, Engine, event

from jobs.store import schema
from jobs.store.database import Database

PARAMETER = re.compile(r"%\((\w+)\)s")


@dataclass(frozen=True)
class Statement:
    """One statement as passed to the driver."""

    sql: str
    parameters: Any


@dataclass
class Plan:
    """The parts of a query plan that matter to a test.

    `whole_scans` names the tables of which every row is read, and the indexes of which every entry is. A sort counts
    by how many rows it is expected to take; SQLite doesn't say, so with it every sort is a large one.
    """

    whole_scans: list[str] = field(default_factory=list)
    indexes: list[str] = field(default_factory=list)
    largest_sort: int = 0
    text: str = ""


@contextmanager
def captured(database: Database) -> Iterator[list[Statement]]:
    """Yield the statements that are executed on `database` within the block."""
    statements: list[Statement] = []

    def note(_connection: Connection, _cursor: Any, sql: str, parameters: Any, *_rest: Any) -> None:
        statements.append(Statement(sql, parameters))

    engine: Engine = database.engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(engine, "before_cursor_execute", note)


def explain(database: Database, statement: Statement, *, generic: bool = False) -> Plan:
    """Return the plan of a statement. `generic` asks PostgreSQL for the plan of a prepared statement."""
    with database.read() as tx:
        if database.is_sqlite:
            return _of_sqlite(tx, statement)
        return _of_postgresql(tx, statement, generic=generic)


def _one_of(parameters: Any) -> Any:
    return parameters[0] if isinstance(parameters, list) else parameters


def _of_sqlite(tx: Connection, statement: Statement) -> Plan:
    rows = tx.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement.sql}", _one_of(statement.parameters)).all()
    plan = Plan(text="\n".join(row.detail for row in rows))
    for row in rows:
        detail: str = row.detail
        index = re.search(r"USING (?:COVERING )?INDEX (\w+)", detail)
        if index:
            plan.indexes.append(index[1])
        scan = re.match(r"SCAN (\w+?)(?:_\d+)?\b", detail)  # an alias is the table's name with a number
        if scan and scan[1] in schema.metadata.tables:
            plan.whole_scans.append(index[1] if index else scan[1])
        if "USE TEMP B-TREE" in detail:
            plan.largest_sort = sys.maxsize
    return plan


def _of_postgresql(tx: Connection, statement: Statement, *, generic: bool) -> Plan:
    if generic:
        names: dict[str, int] = {}
        sql = PARAMETER.sub(lambda found: f"${names.setdefault(found[1], len(names) + 1)}", statement.sql)
        driver = tx.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        explaining = f"EXPLAIN (GENERIC_PLAN, VERBOSE, FORMAT JSON) {sql}".encode()
        [[found]] = driver.execute(explaining, prepare=False).fetchall()
    else:
        [[found]] = tx.exec_driver_sql(f"EXPLAIN (VERBOSE, FORMAT JSON) {statement.sql}", _one_of(statement.parameters))
    plan = Plan(text=json.dumps(found, indent=1))
    _walk(found[0]["Plan"], plan)
    return plan


def _walk(node: Mapping[str, Any], plan: Plan) -> None:
    kind = node["Node Type"]
    if kind == "Seq Scan":
        plan.whole_scans.append(node["Relation Name"])
    if "Index Name" in node:
        plan.indexes.append(node["Index Name"])
        if "Index Cond" not in node:
            plan.whole_scans.append(node["Index Name"])
    if kind in {"Sort", "Incremental Sort"}:
        plan.largest_sort = max(plan.largest_sort, node["Plan Rows"])
    for child in node.get("Plans", ()):
        _walk(child, plan)
