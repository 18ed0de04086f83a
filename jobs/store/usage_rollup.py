"""Sum up old attempts by day, model, key and outcome, so that the table of attempts does not grow forever.

An attempt is added to its sum and deleted in one transaction, so it always counts once.
"""

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Integer, Select, bindparam, delete, literal_column, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.dml import ReturningDelete

from jobs.errors import Billed
from jobs.store import schema
from jobs.store.column_types import AsciiId, UtcDateTime

TOKENS: Final = ("input_tokens", "output_tokens", "total_tokens", "cached_tokens", "reasoning_tokens")
_ONE: Final = literal_column("1", Integer)
"""A limit with which PostgreSQL probes an index for each row, instead of joining the whole tables."""
SUMS: Final = ("calls", "calls_of_unknown_cost", *TOKENS, "cost_microusd")


def add_up(tx: Connection, before: datetime, limit: int) -> int:
    """Sum up and delete at most `limit` attempts of one key that began on an earlier day (UTC) than `before`.

    Open attempts stay, and so do those whose job still exists or that another session has locked. Returns the number
    of deleted attempts. Only zero means that nothing is left to sum up.
    """
    midnight = datetime.combine(before.astimezone(UTC).date(), time(), UTC)
    key = tx.execute(_KEY, {"midnight": midnight}).scalar_one_or_none()
    if key is None:
        return 0
    taken = tx.execute(_DELETE, {"of_key": key, "midnight": midnight, "most": limit}).all()
    if taken:
        tx.execute(_ADD[tx.dialect.name], _sums(key, taken))
    return len(taken)


def days_begun(start: datetime, end: datetime) -> tuple[date, date]:
    """Return the first and the last day (UTC) that begins within a span. If none does, the last precedes the first."""
    instant = timedelta(microseconds=1)
    return (start.astimezone(UTC) + timedelta(days=1) - instant).date(), (end.astimezone(UTC) - instant).date()


def _sums(key: str, attempts: Iterable[Any]) -> list[dict[str, Any]]:
    sums: dict[tuple[date, str, str], Counter[str]] = {}
    for each in attempts:
        group = sums.setdefault((each.started_at.astimezone(UTC).date(), each.model, each.outcome), Counter())
        group["calls"] += 1
        group["calls_of_unknown_cost"] += each.billed != Billed.NO and each.cost_microusd is None  # `IS_UNPRICED`
        for name in (*TOKENS, "cost_microusd"):
            group[name] += getattr(each, name) or 0
    return [
        {"api_key_id": key, "day": day, "model": model, "outcome": outcome, **{name: group[name] for name in SUMS}}
        for (day, model, outcome), group in sorted(sums.items())  # one lock order prevents deadlocks
    ]


def _past() -> tuple[Any, ...]:
    row, job = schema.attempts.c, schema.jobs.c
    kept = select(job.id).where(job.id == row.job_id).limit(_ONE).scalar_subquery()
    return row.started_at < bindparam("midnight", type_=UtcDateTime), row.ended_at.is_not(None), kept.is_(None)


def _key() -> Select[Any]:
    """Select the first key with such attempts, by one index probe for each key."""
    key, row = schema.api_keys.c, schema.attempts.c
    past = select(row.job_id).where(row.api_key_id == key.id, *_past()).limit(_ONE)
    return select(key.id).where(past.scalar_subquery().is_not(None)).order_by(key.id).limit(1)


def _delete() -> ReturningDelete[Any]:
    row = schema.attempts.c
    of_key = row.api_key_id == bindparam("of_key", type_=AsciiId)
    past = select(row.job_id, row.number).where(of_key, *_past()).order_by(row.started_at)
    past = past.limit(bindparam("most", type_=Integer)).with_for_update(skip_locked=True)
    facts = (row.started_at, row.model, row.outcome, row.billed, *(row[name] for name in TOKENS), row.cost_microusd)
    return delete(schema.attempts).where(tuple_(row.job_id, row.number).in_(past)).returning(*facts)


def _add(dialect: Any) -> Any:
    inserting, row = dialect.insert(schema.usage_rollup), schema.usage_rollup.c
    sums = {name: row[name] + inserting.excluded[name] for name in SUMS}
    return inserting.on_conflict_do_update(index_elements=[*schema.usage_rollup.primary_key], set_=sums)


_KEY: Final = _key()
_DELETE: Final = _delete()
_ADD: Final = {"postgresql": _add(postgresql), "sqlite": _add(sqlite)}
