"""Which deliveries are due, and whose turn it is: round robin over API keys, then over their receivers, then by age.

A receiver is one server that one API key sends to. It is offered two at once, and then one more than are out: whoever
delivers there goes on by itself as long as it works, so bells need only widen its way; for one that hangs they would
ring in vain. Nor is a key offered more than its share of the places. Receivers are found by skipping through the index,
as the run list of jobs finds keys.
"""

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter, itemgetter
from typing import Any, Final, Protocol, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    bindparam,
    collate,
    func,
    literal,
    or_,
    select,
    union_all,
    update,
)

from jobs.fair_shares import room
from jobs.store import schema
from jobs.store.column_types import any_of

FIRST_AT_ONCE = 2
MOST_PER_TARGET = 16
TARGETS_PER_QUERY = 50


@dataclass(frozen=True)
class _Target:
    """One with something due, and how many deliveries are out to it."""

    name: str
    api_key_id: str
    out: int


@dataclass(frozen=True, order=True)
class _Turn:
    """A due delivery and its turn: the first of every receiver goes before the second of any."""

    number: int
    available_at: datetime
    id: str
    api_key_id: str


def pick_due_deliveries(
    tx: Connection, now: datetime, limit: int, enqueued_before: datetime, places: int | None = None
) -> list[str]:
    """Return up to `limit` ids of due deliveries not enqueued since `enqueued_before`, in the order to enqueue them.

    Marks them as enqueued at `now`. Deliveries that another session has locked are skipped. With `places`, a key gets
    no more than its fair share of them.
    """
    if limit <= 0:
        return []
    sending = tx.execute(_OUT).all()
    out: Counter[str] = Counter()
    of_key: Counter[str] = Counter()
    for each in sending:
        out[each.target] += each.out
        of_key[each.api_key_id] += each.out
    due = [_Target(each.target, each.api_key_id, out[each.target]) for each in _due_targets(tx, now)]
    free = limit if places is None else places - of_key.total()
    left = {each.api_key_id: limit if places is None else room(of_key[each.api_key_id], free) for each in due}
    turns: list[_Turn] = []
    targets = deque(_in_turns((each for each in due if each.out < MOST_PER_TARGET), of_key))
    while targets and len(turns) < limit:
        group: list[_Target] = []
        while targets and len(group) < TARGETS_PER_QUERY:
            following = targets.popleft()
            if left[following.api_key_id] > 0:
                group.append(following)
        for turn in _oldest_of_each(tx, group, now, enqueued_before):
            if left[turn.api_key_id] > 0:
                left[turn.api_key_id] -= 1
                turns.append(turn)
    picked = [each.id for each in _in_turns(sorted(turns), of_key)][:limit]
    if not picked:
        return []
    row = schema.webhook_deliveries.c
    unlocked = select(row.id).where(any_of(row.id, picked), schema.IS_PENDING)
    these = row.id.in_(unlocked.with_for_update(skip_locked=True, key_share=True))
    ringing = update(schema.webhook_deliveries).where(any_of(row.id, picked), these).values(enqueued_at=now)
    enqueued = {*tx.execute(ringing.returning(row.id)).scalars()}
    return [each for each in picked if each in enqueued]


def delivery_enqueued_at(tx: Connection, delivery_id: str) -> datetime | None:
    """When the bell of a pending delivery was rung; None if it was not, or the delivery is pending no more."""
    found: datetime | None = tx.execute(_ENQUEUED_AT, {"of_id": delivery_id}).scalar_one_or_none()
    return found


_ENQUEUED_AT: Final = select(schema.webhook_deliveries.c.enqueued_at).where(
    schema.webhook_deliveries.c.id == bindparam("of_id"), schema.IS_PENDING
)


def due_of_target(tx: Connection, target: str, now: datetime, limit: int) -> list[str]:
    """The oldest due deliveries of one receiver, rung or not."""
    return list(tx.execute(_DUE_OF_TARGET, {"whom": target, "now": now, "limit": limit}).scalars())


_DUE_OF_TARGET = (
    select(schema.webhook_deliveries.c.id)
    .where(
        schema.IS_PENDING,
        schema.webhook_deliveries.c.target == bindparam("whom"),
        schema.webhook_deliveries.c.available_at <= bindparam("now"),
    )
    .order_by(schema.webhook_deliveries.c.available_at, schema.webhook_deliveries.c.id)
    .limit(bindparam("limit"))
)


class _OfKey(Protocol):
    @property
    def api_key_id(self) -> str: ...


T = TypeVar("T", bound=_OfKey)


def _in_turns(items: Iterable[T], of_key: Mapping[str, int]) -> list[T]:
    """Items in turns between keys, each key's in their order; one that has deliveries out has had so many turns."""
    turns = Counter(of_key)
    numbered: list[tuple[int, T]] = []
    for each in items:
        turns[each.api_key_id] += 1
        numbered.append((turns[each.api_key_id], each))
    return [each for _, each in sorted(numbered, key=itemgetter(0))]


_OUT: Final = (
    select(
        schema.webhook_deliveries.c.target,
        func.min(schema.webhook_deliveries.c.api_key_id).label("api_key_id"),  # a receiver is of one key
        func.count().label("out"),
    )
    .where(schema.IS_SENDING)
    .group_by(schema.webhook_deliveries.c.target)
)


def _due_targets(tx: Connection, now: datetime) -> list[Row[Any]]:
    """Every receiver that has a due delivery, longest due first; a few index probes for each that has any pending."""
    found = tx.execute(_DUE_TARGETS[tx.dialect.name], {"now": now})
    return sorted(found, key=attrgetter("due_at", "target"))


def _targets(nobody: ColumnElement[str]) -> Select[Any]:
    row = schema.webhook_deliveries.c
    target = select(nobody.label("target")).cte("targets", recursive=True)
    following = select(func.min(row.target)).where(schema.IS_PENDING, row.target > target.c.target).scalar_subquery()
    target = target.union_all(select(following).where(target.c.target.is_not(None)))
    of_this = (schema.IS_PENDING, row.target == target.c.target)
    due_at = select(func.min(row.available_at)).where(*of_this).scalar_subquery()
    whose = select(row.api_key_id).where(*of_this).order_by(row.available_at).limit(1).scalar_subquery()
    named = (target.c.target.is_not(None), target.c.target != "")
    columns = (target.c.target, whose.label("api_key_id"), due_at.label("due_at"))
    return select(*columns).where(*named, due_at <= bindparam("now"))


_DUE_TARGETS: Final = {
    "postgresql": _targets(collate(literal(""), "C")),
    "sqlite": _targets(literal("")),
}


def _oldest_of_each(
    tx: Connection, targets: Sequence[_Target], now: datetime, enqueued_before: datetime
) -> list[_Turn]:
    """The oldest due deliveries of each receiver, in their turns."""
    if not targets:
        return []
    row = schema.webhook_deliveries.c
    branches = []
    for number, target in enumerate(targets):
        due = (
            select(row.target, row.available_at, row.id)
            .where(
                schema.IS_PENDING,
                row.target == bindparam(f"receiver_{number}", target.name),
                row.available_at <= now,
                or_(row.enqueued_at.is_(None), row.enqueued_at < enqueued_before),
            )
            .order_by(row.available_at, row.id)
            .limit(FIRST_AT_ONCE)
            .subquery(f"due_{number}")
        )
        branches.append(select(due))
    named = {each.name: each for each in targets}
    turns: Counter[str] = Counter()
    found = []
    for target, available_at, delivery_id in sorted(tx.execute(union_all(*branches)), key=itemgetter(1, 2)):
        turns[target] += 1
        whose = named[target]
        if whose.out + turns[target] <= max(FIRST_AT_ONCE, whose.out + 1):
            found.append(_Turn(whose.out + turns[target], available_at, delivery_id, whose.api_key_id))
    return sorted(found)
