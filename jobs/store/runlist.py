"""Which jobs are due, and whose turn it is: by priority, then fairly between API keys, then by age.

Fairness is round robin: each key's n-th due job competes with the other keys' n-th, and among equals the key goes
first that was served longest ago. Keys with work are found by skipping through the index from key to key, so a
tenant with a million queued jobs costs as much as one with a single job.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, bindparam, collate, func, literal, or_, select, union_all, update

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
    groups = _groups(tx)
    served_at = _served_at(tx, {key for _, key in groups}) if len(groups) > 1 else {}
    for priority in PRIORITIES:
        keys = [key for each, key in groups if each == priority]
        if keys and len(picked) < limit:
            due = _due(tx, priority, keys, limit - len(picked), now=now, rung_before=rung_before)
            due.sort(key=lambda job: (job.turn, served_at.get(job.api_key_id, ""), job.available_at))
            picked += due[: limit - len(picked)]
    _mark_rung(tx, picked, now)
    return [job.job_id for job in picked]


def next_due_at(tx: Connection, now: datetime) -> datetime | None:
    """When the next waiting job becomes due after `now`, if any does."""
    row = tables.jobs.c
    later = select(func.min(row.available_at)).where(row.status == Status.QUEUED, row.available_at > now)
    moment: datetime | None = tx.execute(later).scalar_one()
    return moment


def _groups(tx: Connection) -> list[tuple[int, str]]:
    """Each (priority, key) that has queued jobs, by one index probe each."""
    row = tables.jobs.c
    no_key = collate(literal(""), "C") if tx.dialect.name == "postgresql" else literal("")
    starts = (select(literal(each).label("priority"), no_key.label("key")) for each in PRIORITIES)
    group = select(union_all(*starts).subquery("start")).cte("job_groups", recursive=True)
    following = (
        select(func.min(row.api_key_id))
        .where(row.status == Status.QUEUED, row.priority == group.c.priority, row.api_key_id > group.c.key)
        .scalar_subquery()
    )
    group = group.union_all(select(group.c.priority, following).where(group.c.key.is_not(None)))
    found = select(group.c.priority, group.c.key).where(group.c.key.is_not(None), group.c.key != "")
    return [(priority, key) for priority, key in tx.execute(found)]


def _served_at(tx: Connection, keys: set[str]) -> dict[str, str]:
    row = tables.api_keys.c
    query = select(row.id, row.dispatched_at).where(row.id.in_(keys), row.dispatched_at.is_not(None))
    return {key: moment.isoformat() for key, moment in tx.execute(query)}


def _due(
    tx: Connection, priority: int, keys: Sequence[str], limit: int, *, now: datetime, rung_before: datetime
) -> list[_Due]:
    row = tables.jobs.c
    share = limit if len(keys) == 1 else max(1, 2 * limit // len(keys))
    found: list[_Due] = []
    for start in range(0, len(keys), GROUPS_PER_QUERY):
        branches = []
        for number, key in enumerate(keys[start : start + GROUPS_PER_QUERY]):
            due = (
                select(row.id, row.api_key_id, row.available_at)
                .where(
                    row.status == Status.QUEUED,
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
        turns: dict[str, int] = {}
        for job_id, key, available_at in tx.execute(union_all(*branches)):
            turns[key] = turns.get(key, 0) + 1
            found.append(_Due(job_id, priority, key, available_at, turns[key]))
    return found


def _mark_rung(tx: Connection, picked: Sequence[_Due], now: datetime) -> None:
    if not picked:
        return
    job, key = tables.jobs.c, tables.api_keys.c
    ids = [each.job_id for each in picked]
    queued = update(tables.jobs).where(job.id.in_(ids), job.status == Status.QUEUED)
    tx.execute(queued.values(rung_at=now))
    first_turn = {each.api_key_id: position for position, each in reversed(list(enumerate(picked)))}
    for key_id, position in sorted(first_turn.items(), key=lambda item: item[1]):
        served = update(tables.api_keys).where(key.id == key_id)
        tx.execute(served.values(dispatched_at=now + timedelta(microseconds=position)))
