"""The order of due jobs: round-robin across API keys, then by the key's own priorities, then oldest first.

In round n every key gets its n-th due job; within a round, the key served longest ago comes first. A priority orders
only the jobs of its own key: if it went further, a key that always asks for 9 would starve all others.

Keys with work are found by skipping through the index from key to key, so a key with a million queued jobs costs as
much as one with a single job. A scheduler remembers the keys it has found, so a pick costs as much as the number of
jobs it returns, however many keys have work.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import (
    ARRAY,
    CTE,
    CompoundSelect,
    Connection,
    Integer,
    Select,
    String,
    Update,
    bindparam,
    cast,
    column,
    func,
    literal_column,
    null,
    or_,
    select,
    true,
    union_all,
    update,
)
from sqlalchemy.sql.dml import ReturningUpdate

from jobs.ids import first_id_at
from jobs.lifecycle import Status
from jobs.store import schema
from jobs.store.column_types import AsciiId, UtcDateTime, any_of
from jobs.store.key_queue import KeyQueue

PRIORITIES = range(9, -1, -1)
ALL_KEYS = 1 << 30
MIN_LEARNT = 10
NEWEST = 100
NEW_FOR = timedelta(minutes=1)
"""Age up to which a job counts as new, by its id, which carries the time of the machine that made it."""
FORGOTTEN_AFTER = timedelta(seconds=5)
"""By then another worker may have the lease, and its scheduler has served keys as well."""
MIN_KEYS_READ = 10
GROUPS_PER_QUERY = 100
"""On SQLite, where each key and priority needs a branch of the query."""
_BEFORE_ALL: Final = ""
_NO_GROUP: Final = literal_column("0", Integer)


@dataclass(frozen=True)
class _Due:
    job_id: str
    api_key_id: str
    round: int


class FairScheduler:
    """Allocates messages to due jobs, with a memory of the keys that have work. Not thread-safe.

    Each pick reads the keys of the `NEWEST` jobs, so that new arrivals are known at once, and the next part of a scan
    through all keys with queued jobs: as many per priority as jobs are asked for. So a key that has got work in another
    way, as by a retry, is known before all others have been served. If the known keys yield too few jobs, all keys are
    read at once. The scan also corrects what a rollback or another scheduler has made untrue.
    """

    def __init__(self) -> None:
        self._queue = KeyQueue()
        self._priorities: dict[str, set[int]] = {}  # per queued key, those of which it may have due jobs
        self._after: dict[int, str] = {}
        self._picked_at: datetime | None = None
        self._locked: dict[str, datetime] = {}  # jobs that another session had locked, and when that was seen

    def pick(self, tx: Connection, now: datetime, limit: int, enqueued_before: datetime) -> list[str]:
        """Return up to `limit` ids of due jobs not enqueued since `enqueued_before`, in the order to enqueue them.

        Marks them as enqueued at `now` and their keys as served. Jobs that another session has locked are skipped, as
        one that is being claimed needs no message.
        """
        if limit <= 0:
            return []
        self._locked = {each: at for each, at in self._locked.items() if timedelta(0) <= now - at < FORGOTTEN_AFTER}
        if self._picked_at is None or not timedelta(0) <= now - self._picked_at < FORGOTTEN_AFTER:
            self._queue, self._priorities = KeyQueue(), {}
            self._restart_scan()
            most = ALL_KEYS
        else:
            most = max(MIN_LEARNT, limit)
        knows_all = self._learn(tx, now, most)
        self._picked_at = now
        picked = self._allocate(tx, limit, now=now, enqueued_before=enqueued_before)
        if len(picked) < limit and not knows_all:
            self._restart_scan()
            self._learn(tx, now, ALL_KEYS)
            picked = self._allocate(tx, limit, now=now, enqueued_before=enqueued_before)
        return self._serve(tx, picked, now) if picked else []

    def _restart_scan(self) -> None:
        self._after = dict.fromkeys(PRIORITIES, _BEFORE_ALL)

    def _learn(self, tx: Connection, now: datetime, most: int) -> bool:
        """Queue the due keys among the next `most` of each priority; return whether all keys with jobs were read."""
        last: dict[int, tuple[int, str]] = {}
        after = {_after(priority): key for priority, key in self._after.items()}
        since = first_id_at("resp", now - NEW_FOR)
        for each in tx.execute(_WAITING, {**after, "most": most, "made_since": since}):
            if each.available_at <= now:
                self._queue.put(each.key, each.served_at)
                self._priorities.setdefault(each.key, set()).add(each.priority)
            last[each.priority] = max(last.get(each.priority, (0, _BEFORE_ALL)), (each.number, each.key))
        is_from_start = all(key == _BEFORE_ALL for key in self._after.values())
        unfinished = {priority: key for priority, (number, key) in last.items() if number == most}
        self._after = dict.fromkeys(PRIORITIES, _BEFORE_ALL) | unfinished
        return is_from_start and not unfinished

    def _allocate(self, tx: Connection, limit: int, *, now: datetime, enqueued_before: datetime) -> list[_Due]:
        due = self._due(tx, limit + len(self._locked), now=now, enqueued_before=enqueued_before)
        due = [job for job in due if job.job_id not in self._locked]
        due.sort(key=lambda job: (job.round, self._queue.served_at(job.api_key_id)))
        return due[:limit]

    def _due(self, tx: Connection, limit: int, *, now: datetime, enqueued_before: datetime) -> list[_Due]:
        """Return the first due jobs of each key, enough of each to allocate `limit` fairly.

        Some keys have fewer than their share, as their jobs are already enqueued. Then the keys that have more are
        asked for more, and those without any leave the queue. If there are more keys than jobs to allocate, the first
        keys of the queue get them.
        """
        found: dict[str, list[_Due]] = {}
        share = max(1, min(limit, 2 * limit // max(1, len(self._queue))))
        idle: list[str] = []
        start, size = 0, max(limit, MIN_KEYS_READ)
        while start < len(self._queue) and (share > 1 or len(found) < limit):
            keys = self._queue.keys(start, start + size)
            found |= self._first_of_each(tx, keys, share, now=now, enqueued_before=enqueued_before)
            idle += [key for key in keys if key not in found]
            start, size = start + size, 2 * size  # more each time: those read so far had too little due
        for key in idle:
            self._queue.drop(key)
            del self._priorities[key]
        while share < limit and sum(len(due) for due in found.values()) < limit:
            keys = [key for key, due in found.items() if len(due) == share]
            if not keys:
                break
            share = min(limit, 4 * share)
            found |= self._first_of_each(tx, keys, share, now=now, enqueued_before=enqueued_before)
        return [job for due in found.values() for job in due]

    def _first_of_each(
        self, tx: Connection, keys: Sequence[str], share: int, *, now: datetime, enqueued_before: datetime
    ) -> dict[str, list[_Due]]:
        asked = {"now": now, "enqueued_before": enqueued_before, "share": share}
        groups = [(key, priority) for key in keys for priority in self._priorities[key]]
        rows: list[Any] = []
        for query, of_groups in _for_each(tx, groups):
            rows += tx.execute(query, asked | of_groups)
        found: dict[str, list[_Due]] = {}
        for row in sorted(rows, key=lambda row: (-row.priority, row.available_at, row.id)):
            due_of_key = found.setdefault(row.api_key_id, [])
            if len(due_of_key) < share:
                due_of_key.append(_Due(row.id, row.api_key_id, round=len(due_of_key) + 1))
        return found

    def _serve(self, tx: Connection, picked: Sequence[_Due], now: datetime) -> list[str]:
        """Mark the jobs as enqueued and their keys as served, in order, so that a partial round rotates too."""
        served = {each.api_key_id: now + timedelta(microseconds=position) for position, each in enumerate(picked)}
        enqueued = _mark_enqueued(tx, [each.job_id for each in picked], served, now)
        for key, moment in served.items():
            self._queue.put(key, moment)
        self._locked |= {each.job_id: now for each in picked if each.job_id not in enqueued}
        return [each.job_id for each in picked if each.job_id in enqueued]


def enqueued_at_of(tx: Connection, job_id: str) -> datetime | None:
    """Return the time at which a queued job was enqueued; None if it was not, or is no longer queued."""
    found: datetime | None = tx.execute(_ENQUEUED_AT, {"of_id": job_id}).scalar_one_or_none()
    return found


_ENQUEUED_AT: Final = select(schema.jobs.c.enqueued_at).where(schema.jobs.c.id == bindparam("of_id"), schema.IS_QUEUED)


def queued_groups() -> CTE:
    """Select each (`priority`, `key`) with queued jobs and the time its first job is due, by one index probe each.

    Of each priority it has the first `most` keys after `after_<priority>`, both parameters, numbered from 1. A row
    numbered 0 is where the scan starts, not a group.
    """
    row, following = schema.jobs.c, schema.jobs.alias("following")
    starts = (
        select(
            literal_column(str(priority), Integer).label("priority"),
            bindparam(_after(priority), _BEFORE_ALL, AsciiId).label("key"),
        )
        for priority in PRIORITIES
    )
    start = union_all(*starts).subquery("start").c
    nothing = (_NO_GROUP.label("number"), cast(null(), UtcDateTime).label("available_at"))
    group = select(start.priority, start.key, *nothing).cte("queued_group", recursive=True)
    first_of_next = (
        select(row.id)
        .where(schema.IS_QUEUED, row.priority == group.c.priority, row.api_key_id > group.c.key)
        .order_by(row.api_key_id, row.available_at, row.id)
        .limit(literal_column("1", Integer))
        .correlate(group)
        .scalar_subquery()
    )
    return group.union_all(
        select(
            group.c.priority,
            following.c.api_key_id,
            group.c.number + literal_column("1", Integer),
            following.c.available_at,
        )
        .join_from(group, following, following.c.id == first_of_next)
        .where(group.c.number < bindparam("most", ALL_KEYS, Integer))
    )


def _waiting() -> Select[Any]:
    """Select the groups, those of the newest jobs as number 0, each with the time its key was last served."""
    row, key = schema.jobs.c, schema.api_keys.c
    newest = (
        select(row.priority, row.api_key_id, row.available_at, schema.IS_QUEUED.label("is_queued"))
        .where(row.id >= bindparam("made_since", type_=AsciiId))
        .order_by(row.id.desc())
        .limit(literal_column(str(NEWEST), Integer))
        .subquery("newest")
        .c
    )
    group = queued_groups().c
    waiting = union_all(
        select(group.priority, group.key, group.number, group.available_at).where(group.number > _NO_GROUP),
        select(newest.priority, newest.api_key_id, _NO_GROUP, func.min(newest.available_at, type_=UtcDateTime))
        .where(newest.is_queued)
        .group_by(newest.priority, newest.api_key_id),
    ).subquery("waiting")
    served_at = select(key.served_at).where(key.id == waiting.c.key).scalar_subquery()
    return select(waiting, served_at.label("served_at"))


def _after(priority: int) -> str:
    return f"after_{priority}"


_WAITING: Final = _waiting()


def _due_jobs() -> Select[Any]:
    row = schema.jobs.c
    return (
        select(row.id, row.api_key_id, row.priority, row.available_at)
        .where(
            schema.IS_QUEUED,
            row.available_at <= bindparam("now"),
            or_(row.enqueued_at.is_(None), row.enqueued_at < bindparam("enqueued_before")),
        )
        .order_by(row.available_at, row.id)
        .limit(bindparam("share", type_=Integer))
    )


def _due_of_each() -> Select[Any]:
    """Select the due jobs of any number of groups. The text, and so the plan, is always the same. For PostgreSQL."""
    asked = func.unnest(bindparam("keys", type_=ARRAY(String)), bindparam("priorities", type_=ARRAY(Integer)))
    group = asked.table_valued(column("key", String), column("priority", Integer)).render_derived("asked")
    row = schema.jobs.c
    of_group = (
        _due_jobs()
        .where(row.api_key_id == group.c.key, row.priority == group.c.priority)
        .correlate(group)
        .lateral("due")
    )
    return select(of_group).select_from(group.join(of_group, true()))


_DUE_OF_EACH: Final = _due_of_each()


def _for_each(
    tx: Connection, groups: Sequence[tuple[str, int]]
) -> Iterator[tuple[Select[Any] | CompoundSelect[Any], dict[str, Any]]]:
    """Yield queries for the due jobs of these keys and priorities, each with its parameters."""
    if tx.dialect.name == "postgresql":
        yield _DUE_OF_EACH, {"keys": [key for key, _ in groups], "priorities": [priority for _, priority in groups]}
        return
    due, row = _due_jobs(), schema.jobs.c
    for start in range(0, len(groups), GROUPS_PER_QUERY):
        some = groups[start : start + GROUPS_PER_QUERY]
        branches = [
            select(
                due.where(
                    row.api_key_id == bindparam(f"key_{number}"), row.priority == bindparam(f"priority_{number}")
                ).subquery(f"due_{number}")
            )
            for number in range(len(some))
        ]
        named: dict[str, Any] = {f"key_{number}": key for number, (key, _) in enumerate(some)}
        named |= {f"priority_{number}": priority for number, (_, priority) in enumerate(some)}
        yield union_all(*branches), named


def _mark_enqueued(tx: Connection, job_ids: Sequence[str], served: Mapping[str, datetime], now: datetime) -> set[str]:
    """Return the jobs that were marked; the others are locked by another session, or claimed."""
    keys = sorted(served)  # in one order, so that no two sessions deadlock
    enqueued = {*tx.execute(_ENQUEUE, {"ids": job_ids, "now": now}).scalars()}
    if tx.dialect.name == "postgresql":
        tx.execute(_SERVE, {"keys": keys, "moments": [served[each] for each in keys]})
        return enqueued
    key = schema.api_keys.c
    one = update(schema.api_keys).where(key.id == bindparam("key")).values(served_at=bindparam("moment"))
    tx.execute(one, [{"key": each, "moment": served[each]} for each in keys])
    return enqueued


def _enqueue() -> ReturningUpdate[Any]:
    job = schema.jobs.c
    free = select(job.id).where(any_of(job.id, "ids"), job.status == Status.QUEUED)
    free = free.with_for_update(skip_locked=True, key_share=True)
    # the ids are a condition twice: by the subquery alone PostgreSQL would read every job, however few are listed
    marking = update(schema.jobs).where(any_of(job.id, "ids"), job.id.in_(free))
    return marking.values(enqueued_at=bindparam("now")).returning(job.id)


def _serve() -> Update:
    keys, moments = bindparam("keys", type_=ARRAY(String)), bindparam("moments", type_=ARRAY(UtcDateTime))
    listed = func.unnest(keys, moments).table_valued(column("key", String), column("moment", UtcDateTime))
    served = listed.render_derived("served").c
    key = schema.api_keys.c.id
    free = select(key).where(any_of(key, "keys")).with_for_update(skip_locked=True, key_share=True)
    # the keys are a condition twice, for the same reason as in `_enqueue`
    these = update(schema.api_keys).where(key == served.key, any_of(key, "keys"), key.in_(free))
    return these.values(served_at=served.moment)


_ENQUEUE: Final = _enqueue()
_SERVE: Final = _serve()
