"""The order of due deliveries: round-robin across API keys, then across their targets, then oldest first.

A target is one origin that one API key sends to. Two of its deliveries are enqueued at first, and after that one more
than are being sent: the sender goes on to a working target's other deliveries by itself, so a message only has to widen
the flow, and messages for a target that hangs would be in vain. Nor does a key get more than its share of the slots.
Targets are found by skipping through the index, as `fair_scheduler` finds API keys.
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
    """A target with due deliveries; `sending` is the number of its deliveries that are being sent."""

    name: str
    api_key_id: str
    sending: int


@dataclass(frozen=True, order=True)
class _Candidate:
    """A due delivery. Sorted by `round`, the first of every target comes before the second of any."""

    round: int
    available_at: datetime
    id: str
    api_key_id: str


def pick_due_deliveries(
    tx: Connection, now: datetime, limit: int, enqueued_before: datetime, slots: int | None = None
) -> list[str]:
    """Return up to `limit` ids of due deliveries not enqueued since `enqueued_before`, in the order to enqueue them.

    Marks them as enqueued at `now`. Deliveries that another session has locked are skipped. With `slots`, the number of
    deliveries that all workers can send at once, a key gets no more than its fair share of them.
    """
    if limit <= 0:
        return []
    sending: Counter[str] = Counter()
    sending_of_key: Counter[str] = Counter()
    for each in tx.execute(_SENDING):
        sending[each.target] += each.sending
        sending_of_key[each.api_key_id] += each.sending
    due = [_Target(each.target, each.api_key_id, sending[each.target]) for each in _due_targets(tx, now)]
    free = limit if slots is None else slots - sending_of_key.total()
    left = {each.api_key_id: limit if slots is None else room(sending_of_key[each.api_key_id], free) for each in due}
    candidates: list[_Candidate] = []
    targets = deque(_round_robin((each for each in due if each.sending < MOST_PER_TARGET), sending_of_key))
    while targets and len(candidates) < limit:
        group: list[_Target] = []
        while targets and len(group) < TARGETS_PER_QUERY:
            target = targets.popleft()
            if left[target.api_key_id] > 0:
                group.append(target)
        for candidate in _oldest_of_each(tx, group, now, enqueued_before):
            if left[candidate.api_key_id] > 0:
                left[candidate.api_key_id] -= 1
                candidates.append(candidate)
    picked = [each.id for each in _round_robin(sorted(candidates), sending_of_key)][:limit]
    if not picked:
        return []
    row = schema.webhook_deliveries.c
    unlocked = select(row.id).where(any_of(row.id, picked), schema.IS_PENDING)
    these = row.id.in_(unlocked.with_for_update(skip_locked=True, key_share=True))
    marking = update(schema.webhook_deliveries).where(any_of(row.id, picked), these).values(enqueued_at=now)
    enqueued = {*tx.execute(marking.returning(row.id)).scalars()}
    return [each for each in picked if each in enqueued]


def delivery_enqueued_at(tx: Connection, delivery_id: str) -> datetime | None:
    """Return the time at which a pending delivery was enqueued; None if it was not, or is no longer pending."""
    found: datetime | None = tx.execute(_ENQUEUED_AT, {"of_id": delivery_id}).scalar_one_or_none()
    return found


_ENQUEUED_AT: Final = select(schema.webhook_deliveries.c.enqueued_at).where(
    schema.webhook_deliveries.c.id == bindparam("of_id"), schema.IS_PENDING
)


def due_of_target(tx: Connection, target: str, now: datetime, limit: int) -> list[str]:
    """Return the ids of a target's oldest due deliveries, enqueued or not."""
    return list(tx.execute(_DUE_OF_TARGET, {"of_target": target, "now": now, "limit": limit}).scalars())


_DUE_OF_TARGET = (
    select(schema.webhook_deliveries.c.id)
    .where(
        schema.IS_PENDING,
        schema.webhook_deliveries.c.target == bindparam("of_target"),
        schema.webhook_deliveries.c.available_at <= bindparam("now"),
    )
    .order_by(schema.webhook_deliveries.c.available_at, schema.webhook_deliveries.c.id)
    .limit(bindparam("limit"))
)


class _OfKey(Protocol):
    @property
    def api_key_id(self) -> str: ...


T = TypeVar("T", bound=_OfKey)


def _round_robin(items: Iterable[T], sending_of_key: Mapping[str, int]) -> list[T]:
    """Return the items round-robin across keys, each key's in their order.

    A key whose deliveries are being sent starts as many rounds later.
    """
    rounds = Counter(sending_of_key)
    numbered: list[tuple[int, T]] = []
    for each in items:
        rounds[each.api_key_id] += 1
        numbered.append((rounds[each.api_key_id], each))
    return [each for _, each in sorted(numbered, key=itemgetter(0))]


_SENDING: Final = (
    select(
        schema.webhook_deliveries.c.target,
        func.min(schema.webhook_deliveries.c.api_key_id).label("api_key_id"),  # a target belongs to one key
        func.count().label("sending"),
    )
    .where(schema.IS_SENDING)
    .group_by(schema.webhook_deliveries.c.target)
)


def _due_targets(tx: Connection, now: datetime) -> list[Row[Any]]:
    """Return every target with a due delivery, longest due first. Costs a few index probes per pending target."""
    found = tx.execute(_DUE_TARGETS[tx.dialect.name], {"now": now})
    return sorted(found, key=attrgetter("due_at", "target"))


def _targets(empty: ColumnElement[str]) -> Select[Any]:
    """Select the due targets, found one after the other from the `empty` string on."""
    row = schema.webhook_deliveries.c
    target = select(empty.label("target")).cte("targets", recursive=True)
    following = select(func.min(row.target)).where(schema.IS_PENDING, row.target > target.c.target).scalar_subquery()
    target = target.union_all(select(following).where(target.c.target.is_not(None)))
    of_this = (schema.IS_PENDING, row.target == target.c.target)
    due_at = select(func.min(row.available_at)).where(*of_this).scalar_subquery()
    key = select(row.api_key_id).where(*of_this).order_by(row.available_at).limit(1).scalar_subquery()
    named = (target.c.target.is_not(None), target.c.target != "")
    columns = (target.c.target, key.label("api_key_id"), due_at.label("due_at"))
    return select(*columns).where(*named, due_at <= bindparam("now"))


_DUE_TARGETS: Final = {"postgresql": _targets(collate(literal(""), "C")), "sqlite": _targets(literal(""))}


def _oldest_of_each(
    tx: Connection, targets: Sequence[_Target], now: datetime, enqueued_before: datetime
) -> list[_Candidate]:
    """Return the oldest due deliveries of each target, in the order of their rounds."""
    if not targets:
        return []
    row = schema.webhook_deliveries.c
    branches = []
    for number, target in enumerate(targets):
        due = (
            select(row.target, row.available_at, row.id)
            .where(
                schema.IS_PENDING,
                row.target == bindparam(f"target_{number}", target.name),
                row.available_at <= now,
                or_(row.enqueued_at.is_(None), row.enqueued_at < enqueued_before),
            )
            .order_by(row.available_at, row.id)
            .limit(FIRST_AT_ONCE)
            .subquery(f"due_{number}")
        )
        branches.append(select(due))
    by_name = {each.name: each for each in targets}
    rounds: Counter[str] = Counter()
    found = []
    for name, available_at, delivery_id in sorted(tx.execute(union_all(*branches)), key=itemgetter(1, 2)):
        rounds[name] += 1
        target = by_name[name]
        if target.sending + rounds[name] <= max(FIRST_AT_ONCE, target.sending + 1):
            found.append(_Candidate(target.sending + rounds[name], available_at, delivery_id, target.api_key_id))
    return sorted(found)
