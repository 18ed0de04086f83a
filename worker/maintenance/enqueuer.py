"""Tops up the broker's queue from the backlog in SQL, and rings again for every bell that was lost."""

from datetime import datetime, timedelta

from jobs.store.database import Database, database_now, unless_locked
from jobs.store.fair_scheduler import Turns, rung_at_of
from jobs.store.provider_limits import LaneSettings, read_lane, widen_if_quiet
from jobs.store.workers import live_slots
from jobs.task_queue import Dispatcher, LostBells


def run_once(
    database: Database,
    dispatcher: Dispatcher,
    turns: Turns,
    lost: LostBells,
    lane: LaneSettings,
    now: datetime,
    *,
    worker_timeout: timedelta,
) -> int:
    """Ring for as many due jobs as window and lane have room for; returns how many.

    `turns` and `lost` are kept between calls.
    """
    depth = dispatcher.depth()
    if depth is None:
        return 0
    following = dispatcher.next_bell() if depth else None
    with database.read() as tx:
        next_rung_at = rung_at_of(tx, following) if following else None
        slots = live_slots(tx, database_now(tx), worker_timeout)
        current = read_lane(tx, lane.name)
        room = dispatcher.room(tx, lane, current, depth=depth, slots=slots, now=now)
    if current.max_calls is not None:
        with unless_locked(), database.begin(hurried=True) as tx:
            widen_if_quiet(tx, current, now, slots)
    rung_before = lost.rung_before(depth, now, is_shown=following is not None, next_rung_at=next_rung_at)
    if room <= 0:
        return 0
    with database.begin() as tx:
        due = turns.pick(tx, now, room, rung_before)
    return dispatcher.ring_all(due)
