"""Which jobs are due, and whose turn it is: by priority, then fairly between API keys, then by age.

Fairness is round robin: each key's n-th due job competes with the other keys' n-th, and among equals the key goes
first that was served longest ago. Keys with work are found by skipping through the index from key to key, so a
tenant with a million queued jobs costs as much as one with a single job.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import itemgetter

from sqlalchemy import Connection, Subquery, bindparam, collate, func, literal, or_, select, union_all, update

from jobs.lifecycle import Status
from jobs.store import tables

PRIORITIES = range(9, -1, -1)
GROUPS_PER_QUERY = 100


@dataclass(frozen=True)
class _Due:
    job_id: str
    priority: int
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
    groups = [(priority, key) for priority, key in tx.execute(select(queued_groups(tx)))]
    served_at = _served_at(tx, {key for _, key in groups}) if len(groups) > 1 else {}
    for priority in PRIORITIES:
        keys = [key for each, key in groups if each == priority]
        if keys and len(picked) < limit:
            due = _due(tx, priority, keys, limit - len(picked), now=now, rung_before=rung_before)
            due.sort(key=lambda job: (job.turn, served_at.get(job.api_key_id, ""), job.available_at))
            picked += due[: limit - len(picked)]
    _mark_rung(tx, picked, now)
    return [job.job_id for job in picked]


def queued_groups(tx: Connection) -> Subquery:
    """Each (`priority`, `key`) that has queued jobs, by one index probe each."""
    row = tables.jobs.c
    no_key = collate(literal(""), "C") if tx.dialect.name == "postgresql" else literal("")
    starts = (select(literal(each).label("priority"), no_key.label("key")) for each in PRIORITIES)
    group = select(union_all(*starts).subquery("start")).cte("job_groups", recursive=True)
    following = (
        select(func.min(row.api_key_id))
        .where(tables.IS_QUEUED, row.priority == group.c.priority, row.api_key_id > group.c.key)
        .scalar_subquery()
    )
    group = group.union_all(select(group.c.priority, following).where(group.c.key.is_not(None)))
    found = select(group.c.priority, group.c.key).where(group.c.key.is_not(None), group.c.key != "")
    return found.subquery("queued_group")


def _served_at(tx: Connection, keys: set[str]) -> dict[str, str]:
    row = tables.api_keys.c
    query = select(row.id, row.dispatched_at).where(row.id.in_(keys), row.dispatched_at.is_not(None))
    return {key: moment.isoformat() for key, moment in tx.execute(query)}


def _due(
    tx: Connection, priority: int, keys: Sequence[str], limit: int, *, now: datetime, rung_before: datetime
) -> list[_Due]:
    """The oldest due jobs of each key, so many of each that `limit` of them are dealt fairly.

    Not every key has its share of them: some wait, some have been rung. Who has more is asked for more.
    """
    found: dict[str, list[_Due]] = {}
    share = max(1, min(limit, 2 * limit // len(keys)))
    while keys:
        for start in range(0, len(keys), GROUPS_PER_QUERY):
            group = keys[start : start + GROUPS_PER_QUERY]
            found |= _oldest_of_each(tx, priority, group, share, now=now, rung_before=rung_before)
        if share == limit or sum(len(due) for due in found.values()) >= limit:
            break
        keys = [key for key in keys if len(found.get(key, ())) == share]
        share = min(limit, 4 * share)
    return [job for due in found.values() for job in due]


def _oldest_of_each(
    tx: Connection, priority: int, keys: Sequence[str], share: int, *, now: datetime, rung_before: datetime
) -> dict[str, list[_Due]]:
    row = tables.jobs.c
    branches = []
    for number, key in enumerate(keys):
        due = (
            select(row.id, row.api_key_id, row.available_at)
            .where(
                tables.IS_QUEUED,
                row.priority == priority,
                row.api_key_id == bindparam(f"key_{number}", key),
                row.available_at <= now,
                or_(row.rung_at.is_(None), row.rung_at < rung_before),
            )
            .order_by(row.available_at, row.id)
            .limit(share)
            .subquery(f"due_{number}")
        )
        branches.append(select(due))
    found: dict[str, list[_Due]] = {}
    for job_id, key, available_at in sorted(tx.execute(union_all(*branches)), key=itemgetter(2, 0)):
        due_of_key = found.setdefault(key, [])
        due_of_key.append(_Due(job_id, priority, key, available_at, turn=len(due_of_key) + 1))
    return found


def _mark_rung(tx: Connection, picked: Sequence[_Due], now: datetime) -> None:
    if not picked:
        return
    job, key = tables.jobs.c, tables.api_keys.c
    ids = [each.job_id for each in picked]
    queued = update(tables.jobs).where(job.id.in_(ids), job.status == Status.QUEUED)
    tx.execute(queued.values(rung_at=now))
    first_turn = {each.api_key_id: position for position, each in reversed(list(enumerate(picked)))}
    served = update(tables.api_keys).where(key.id == bindparam("key_id")).values(dispatched_at=bindparam("moment"))
    moments = [
        {"key_id": key_id, "moment": now + timedelta(microseconds=position)}
        for key_id, position in sorted(first_turn.items())
    ]
    tx.execute(served, moments)
