"""Which jobs are due, and whose turn it is: by priority, then fairly between API keys, then by age.

Fairness is round robin: each key's n-th due job competes with the other keys' n-th, and among equals the key goes
first that was served longest ago. Keys with work are found by skipping through the index from key to key, so a
tenant with a million queued jobs costs as much as one with a single job.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import itemgetter
from typing import Any

from sqlalchemy import (
    ARRAY,
    CompoundSelect,
    Connection,
    Integer,
    Select,
    SelectBase,
    String,
    Subquery,
    bindparam,
    collate,
    column,
    exists,
    func,
    literal,
    or_,
    select,
    true,
    union_all,
    update,
)

from jobs.lifecycle import Status
from jobs.store import tables
from jobs.store.columns import Moment, among

PRIORITIES = range(9, -1, -1)
FEWEST_KEYS = 20
KEYS_PER_QUERY = 100
"""On SQLite, which wants a branch of its own for each key."""


@dataclass(frozen=True)
class _Due:
    job_id: str
    api_key_id: str
    available_at: datetime
    turn: int


def pick_due(tx: Connection, now: datetime, limit: int, rung_before: datetime) -> list[str]:
    """Up to `limit` ids of due jobs whose bell has not been rung since `rung_before`, in the order to ring them.

    Marks them as rung at `now` and their keys as served.
    """
    if limit <= 0:
        return []
    picked: list[_Due] = []
    for priority in _priorities_in_use(tx):
        if len(picked) == limit:
            break
        keys = _keys_waiting(tx, priority)
        due = _due(tx, priority, keys, limit - len(picked), now=now, rung_before=rung_before)
        rank = {key: position for position, key in enumerate(keys)}
        due.sort(key=lambda job: (job.turn, rank[job.api_key_id]))
        picked += due[: limit - len(picked)]
    _mark_rung(tx, picked, now)
    return [job.job_id for job in picked]


def _priorities_in_use(tx: Connection) -> Sequence[int]:
    """Those that any queued job has, the highest first."""
    row = tables.jobs.c
    each = union_all(*(select(literal(priority).label("priority")) for priority in PRIORITIES)).subquery("each")
    used = select(each.c.priority).where(exists().where(tables.IS_QUEUED, row.priority == each.c.priority))
    return sorted(tx.execute(used).scalars(), reverse=True)


def _keys_waiting(tx: Connection, priority: int) -> Sequence[str]:
    """The keys that have queued jobs of this priority, those first that were served longest ago, or never."""
    key = tables.api_keys.c
    group = _groups(tx, select(bindparam("priority", priority, Integer).label("priority")))
    served_at = select(key.dispatched_at).where(key.id == group.c.key).scalar_subquery()
    return tx.execute(select(group.c.key).order_by(served_at.nulls_first(), group.c.key)).scalars().all()


def queued_groups(tx: Connection) -> Subquery:
    """Each (`priority`, `key`) that has queued jobs, by one index probe each."""
    return _groups(tx, union_all(*(select(literal(each).label("priority")) for each in PRIORITIES)))


def _groups(tx: Connection, priorities: SelectBase) -> Subquery:
    row = tables.jobs.c
    no_key = collate(literal(""), "C") if tx.dialect.name == "postgresql" else literal("")
    start = priorities.subquery("start")
    group = select(start.c.priority, no_key.label("key")).cte("job_groups", recursive=True)
    following = (
        select(func.min(row.api_key_id))
        .where(tables.IS_QUEUED, row.priority == group.c.priority, row.api_key_id > group.c.key)
        .scalar_subquery()
    )
    group = group.union_all(select(group.c.priority, following).where(group.c.key.is_not(None)))
    found = select(group.c.priority, group.c.key).where(group.c.key.is_not(None), group.c.key != "")
    return found.subquery("queued_group")


def _due(
    tx: Connection, priority: int, keys: Sequence[str], limit: int, *, now: datetime, rung_before: datetime
) -> list[_Due]:
    """The oldest due jobs of each key, so many of each that `limit` of them are dealt fairly.

    Not every key has its share of them: some wait, some have been rung. Who has more is asked for more. Where there
    are more keys than places, those that come first in `keys` have them.
    """
    found: dict[str, list[_Due]] = {}
    share = max(1, min(limit, 2 * limit // max(1, len(keys))))
    while keys:
        start, size = 0, max(limit, FEWEST_KEYS)
        while start < len(keys):
            group = keys[start : start + size]
            found |= _oldest_of_each(tx, priority, group, share, now=now, rung_before=rung_before)
            if share == 1 and len(found) >= limit:
                return [job for due in found.values() for job in due]
            start, size = start + size, 2 * size  # whoever came first has nothing due
        if share == limit or sum(len(due) for due in found.values()) >= limit:
            break
        keys = [key for key in keys if len(found.get(key, ())) == share]
        share = min(limit, 4 * share)
    return [job for due in found.values() for job in due]


def _oldest_of_each(
    tx: Connection, priority: int, keys: Sequence[str], share: int, *, now: datetime, rung_before: datetime
) -> dict[str, list[_Due]]:
    row = tables.jobs.c
    due = (
        select(row.id, row.api_key_id, row.available_at)
        .where(
            tables.IS_QUEUED,
            row.priority == bindparam("priority", priority),
            row.available_at <= bindparam("now", now),
            or_(row.rung_at.is_(None), row.rung_at < bindparam("rung_before", rung_before)),
        )
        .order_by(row.available_at, row.id)
        .limit(bindparam("share", share))
    )
    found: dict[str, list[_Due]] = {}
    for query in _for_each(tx, due, keys):
        for job_id, key, available_at in sorted(tx.execute(query), key=itemgetter(2, 0)):
            due_of_key = found.setdefault(key, [])
            due_of_key.append(_Due(job_id, key, available_at, turn=len(due_of_key) + 1))
    return found


def _for_each(tx: Connection, due: Select[Any], keys: Sequence[str]) -> Iterator[Select[Any] | CompoundSelect[Any]]:
    """`due` for each of these keys. On PostgreSQL in one statement whose text, and so its plan, is always the same."""
    row = tables.jobs.c
    if tx.dialect.name == "postgresql":
        asked = func.unnest(bindparam("keys", keys, ARRAY(String)))
        key = asked.table_valued(column("key", String)).render_derived("asked")
        of_key = due.where(row.api_key_id == key.c.key).correlate(key).lateral("due")
        yield select(of_key).select_from(key.join(of_key, true()))
        return
    for start in range(0, len(keys), KEYS_PER_QUERY):
        branches = (
            due.where(row.api_key_id == bindparam(f"key_{number}", key)).subquery(f"due_{number}")
            for number, key in enumerate(keys[start : start + KEYS_PER_QUERY])
        )
        yield union_all(*(select(branch) for branch in branches))


def _mark_rung(tx: Connection, picked: Sequence[_Due], now: datetime) -> None:
    """Who was served last comes last next time: the places that are left over by whole turns go round as well."""
    if not picked:
        return
    job, key = tables.jobs.c, tables.api_keys.c
    queued = update(tables.jobs).where(among(tx, job.id, [each.job_id for each in picked]))
    tx.execute(queued.where(job.status == Status.QUEUED).values(rung_at=now))
    last_turn = {each.api_key_id: now + timedelta(microseconds=position) for position, each in enumerate(picked)}
    keys = sorted(last_turn)  # in one order, so that no two wait for each other
    moments = [last_turn[each] for each in keys]
    if tx.dialect.name == "postgresql":
        listed = func.unnest(bindparam("keys", keys, ARRAY(String)), bindparam("moments", moments, ARRAY(Moment)))
        served = listed.table_valued(column("key", String), column("moment", Moment)).render_derived("served")
        tx.execute(update(tables.api_keys).where(key.id == served.c.key).values(dispatched_at=served.c.moment))
    else:
        one = update(tables.api_keys).where(key.id == bindparam("key")).values(dispatched_at=bindparam("moment"))
        tx.execute(one, [{"key": each, "moment": last_turn[each]} for each in keys])
