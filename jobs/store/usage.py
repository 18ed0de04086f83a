"""Usage of an API key by day and model: tokens, calls and cost."""

from collections import Counter
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Date, Integer, cast, func, literal_column, select, union_all

from jobs.job import Usage
from jobs.store import schema
from jobs.store.usage_rollup import SUMS, TOKENS, days_begun


@dataclass(frozen=True)
class UsageRow:
    """Usage of one model by one key on one day (UTC).

    `cost_microusd` is the sum of the known costs. Of the calls, `calls_of_unknown_cost` may have cost something more.
    """

    day: date
    model: str
    api_key_id: str
    api_key_name: str
    calls: int
    usage: Usage
    cost_microusd: int
    calls_of_unknown_cost: int = 0


def usage_by_day(tx: Connection, api_key_id: str, start: datetime, end: datetime) -> list[UsageRow]:
    """Return the usage of a key's calls that started within the span, latest day first.

    Old calls are kept as sums of a day, which count if their day began within the span.
    """
    row, past = schema.attempts.c, schema.usage_rollup.c
    if tx.dialect.name == "sqlite":
        day: ColumnElement[Any] = func.date(row.started_at)
    else:
        day = cast(func.timezone("UTC", row.started_at), Date)
    calls = (row.api_key_id == api_key_id, row.started_at >= start, row.started_at < end)
    zero = literal_column("0", Integer)
    recent = [func.count(), zero, *(func.sum(func.coalesce(row[name], 0)) for name in SUMS[2:])]
    unpriced = [zero, func.count(), *(zero for _ in SUMS[2:])]
    past_days = (past.api_key_id == api_key_id, past.day.between(*days_begun(start, end)))
    # one statement, because `usage_rollup` moves rows from the first table to the second
    query = union_all(
        select(day, row.model, *recent).where(*calls).group_by(day, row.model),
        select(day, row.model, *unpriced).where(schema.IS_UNPRICED, *calls).group_by(day, row.model),
        select(past.day, past.model, *(past[name] for name in SUMS)).where(*past_days),
    )
    found: dict[tuple[date, str], Counter[str]] = {}
    for started_on, model, *sums in tx.execute(query):
        on = started_on if isinstance(started_on, date) else date.fromisoformat(started_on)  # SQLite returns text
        group = found.setdefault((on, model), Counter())
        group.update(dict(zip(SUMS, map(int, sums), strict=True)))
    if not found:
        return []
    name: str = tx.execute(select(schema.api_keys.c.name).where(schema.api_keys.c.id == api_key_id)).scalar_one()
    return [
        UsageRow(
            day=on,
            model=model,
            api_key_id=api_key_id,
            api_key_name=name,
            calls=totals["calls"],
            usage=Usage(*(totals[each] for each in TOKENS)),
            cost_microusd=totals["cost_microusd"],
            calls_of_unknown_cost=totals["calls_of_unknown_cost"],
        )
        for (on, model), totals in sorted(found.items(), key=lambda each: (-each[0][0].toordinal(), each[0][1]))
    ]
