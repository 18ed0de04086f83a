"""Keeps webhook deliveries moving: takes back those of workers that are gone, and rings for those that are due."""

from datetime import datetime, timedelta

from jobs.ids import first_id_at
from jobs.store.database import Database, database_now
from jobs.store.webhooks.outbox import deliveries_left_behind, rescue_deliveries
from jobs.store.webhooks.pruning import prune_events
from jobs.store.webhooks.scheduler import delivery_rung_at, pick_due_deliveries
from jobs.store.workers import live_workers
from jobs.task_queue import Dispatcher, LostBells, window_size
from jobs.telemetry import get_logger
from worker.maintenance.shared_transaction import all_or_each

PRUNED_AT_ONCE = 500

log = get_logger(__name__)


def rescue(database: Database, dispatcher: Dispatcher, now: datetime) -> int:
    """Take back what workers that are gone were sending; returns how many."""
    done = all_or_each(
        database, lambda tx, only: rescue_deliveries(tx, now, only), lambda tx: deliveries_left_behind(tx, now)
    )
    rescued = [each for ids in done for each in ids]
    for delivery_id in rescued:
        log.info("delivery rescued", delivery_id=delivery_id)
    dispatcher.ring_for_deliveries(rescued)
    return len(rescued)


def dispatch(
    database: Database,
    dispatcher: Dispatcher,
    lost: LostBells,
    now: datetime,
    worker_timeout: timedelta,
    slots_each: int,
) -> int:
    """Ring for as many due deliveries as the live workers have room for; returns how many. `lost` is kept between."""
    depth = dispatcher.depth_of_deliveries()
    if depth is None:
        return 0
    following = dispatcher.next_delivery() if depth else None
    with database.read() as tx:
        next_rung_at = delivery_rung_at(tx, following) if following else None
        alive = [each for each in live_workers(tx, database_now(tx), worker_timeout) if each.draining_at is None]
    places = len(alive) * slots_each
    rung_before = lost.rung_before(depth, now, is_shown=following is not None, next_rung_at=next_rung_at)
    room = window_size(places) - depth
    if room <= 0:
        return 0
    with database.begin() as tx:
        due = pick_due_deliveries(tx, now, room, rung_before, places)
    return dispatcher.ring_for_deliveries(due)


def prune(database: Database, now: datetime, retention: timedelta) -> int:
    """Erase events whose retention has run out, with their deliveries, up to `PRUNED_AT_ONCE`; returns how many."""
    before = now - retention
    with database.begin() as tx:
        return prune_events(tx, before, first_id_at("evt", before), first_id_at("resp", before), PRUNED_AT_ONCE)
