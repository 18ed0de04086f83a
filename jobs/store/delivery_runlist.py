"""Which deliveries are due, and whose turn it is: round robin over receivers, then by age.

A receiver is one server that one API key sends to. It is offered two at once, and then one more than are out: whoever
delivers there goes on by itself as long as it works, so bells need only widen its way; for one that hangs they would
ring in vain. Receivers are found by skipping through the index, as the run list of jobs finds keys.
"""

from collections.abc import Sequence
from datetime import datetime
from operator import itemgetter
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
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

from jobs.store import tables
from jobs.store.columns import among

FIRST_AT_ONCE = 2
MOST_PER_RECEIVER = 16
RECEIVERS_PER_QUERY = 50


def pick_due_deliveries(tx: Connection, now: datetime, limit: int, rung_before: datetime) -> list[str]:
    """Up to `limit` ids of due deliveries whose bell has not been rung since `rung_before`, in the order to ring them.

    Marks them as rung at `now`.
    """
    if limit <= 0:
        return []
    out = _out_by_receiver(tx)
    receivers = [each for each in _due_receivers(tx, now) if out.get(each, 0) < MOST_PER_RECEIVER]
    found: list[tuple[int, datetime, str]] = []
    for start in range(0, len(receivers), RECEIVERS_PER_QUERY):
        group = receivers[start : start + RECEIVERS_PER_QUERY]
        found += _oldest_of_each(tx, group, out, now, rung_before)
    picked = [delivery_id for _turn, _available_at, delivery_id in sorted(found)[:limit]]
    if picked:
        row = tables.webhook_deliveries.c
        tx.execute(
            update(tables.webhook_deliveries).where(among(row.id, picked), tables.IS_PENDING).values(rung_at=now)
        )
    return picked


def due_of_receiver(tx: Connection, receiver: str, now: datetime, limit: int) -> list[str]:
    """The oldest due deliveries of one receiver, rung or not."""
    return list(tx.execute(_DUE_OF_RECEIVER, {"whom": receiver, "now": now, "limit": limit}).scalars())


_DUE_OF_RECEIVER = (
    select(tables.webhook_deliveries.c.id)
    .where(
        tables.IS_PENDING,
        tables.webhook_deliveries.c.receiver == bindparam("whom"),
        tables.webhook_deliveries.c.available_at <= bindparam("now"),
    )
    .order_by(tables.webhook_deliveries.c.available_at, tables.webhook_deliveries.c.id)
    .limit(bindparam("limit"))
)


def _out_by_receiver(tx: Connection) -> dict[str, int]:
    return {each.receiver: each.out for each in tx.execute(_OUT)}


_OUT: Final = (
    select(tables.webhook_deliveries.c.receiver, func.count().label("out"))
    .where(tables.IS_SENDING)
    .group_by(tables.webhook_deliveries.c.receiver)
)


def _due_receivers(tx: Connection, now: datetime) -> Sequence[str]:
    """Every receiver that has a due delivery, by two index probes for each that has any pending."""
    return tx.execute(_DUE_RECEIVERS[tx.dialect.name], {"now": now}).scalars().all()


def _receivers(nobody: ColumnElement[str]) -> Select[Any]:
    row = tables.webhook_deliveries.c
    receiver = select(nobody.label("receiver")).cte("receivers", recursive=True)
    following = (
        select(func.min(row.receiver)).where(tables.IS_PENDING, row.receiver > receiver.c.receiver).scalar_subquery()
    )
    receiver = receiver.union_all(select(following).where(receiver.c.receiver.is_not(None)))
    first_due = (
        select(func.min(row.available_at))
        .where(tables.IS_PENDING, row.receiver == receiver.c.receiver)
        .scalar_subquery()
    )
    named = (receiver.c.receiver.is_not(None), receiver.c.receiver != "")
    return select(receiver.c.receiver).where(*named, first_due <= bindparam("now"))


_DUE_RECEIVERS: Final = {
    "postgresql": _receivers(collate(literal(""), "C")),
    "sqlite": _receivers(literal("")),
}


def _oldest_of_each(
    tx: Connection, receivers: Sequence[str], out: dict[str, int], now: datetime, rung_before: datetime
) -> list[tuple[int, datetime, str]]:
    """The oldest due deliveries of each receiver, each with its turn: the first of all go before the second of any."""
    row = tables.webhook_deliveries.c
    branches = []
    for number, receiver in enumerate(receivers):
        due = (
            select(row.receiver, row.available_at, row.id)
            .where(
                tables.IS_PENDING,
                row.receiver == bindparam(f"receiver_{number}", receiver),
                row.available_at <= now,
                or_(row.rung_at.is_(None), row.rung_at < rung_before),
            )
            .order_by(row.available_at, row.id)
            .limit(FIRST_AT_ONCE)
            .subquery(f"due_{number}")
        )
        branches.append(select(due))
    turns = dict(out)
    found = []
    for receiver, available_at, delivery_id in sorted(tx.execute(union_all(*branches)), key=itemgetter(1, 2)):
        turns[receiver] = turns.get(receiver, 0) + 1
        if turns[receiver] <= max(FIRST_AT_ONCE, out.get(receiver, 0) + 1):
            found.append((turns[receiver], available_at, delivery_id))
    return found
