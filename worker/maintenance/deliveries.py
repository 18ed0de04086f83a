"""Keeps webhook deliveries moving: rescues those of dead workers, enqueues those that are due and erases old events."""

from datetime import datetime, timedelta

from jobs.ids import first_id_at
from jobs.queue_capacity import LostMessages, window_size
from jobs.store.database import Database, database_now
from jobs.store.webhooks.pruning import prune_events
from jobs.store.webhooks.results import orphaned_deliveries, rescue_deliveries
from jobs.store.webhooks.scheduler import delivery_enqueued_at, pick_due_deliveries
from jobs.store.workers import live_workers
from jobs.task_queue import TaskQueue
from jobs.telemetry import get_logger
from worker.maintenance.shared_transaction import all_or_each

PRUNED_AT_ONCE = 500

log = get_logger(__name__)


def rescue(database: Database, task_queue: TaskQueue, now: datetime) -> int:
    """Release the deliveries that dead workers were sending. Return how many."""
    done = all_or_each(
        database, lambda tx, only: rescue_deliveries(tx, now, only), lambda tx: orphaned_deliveries(tx, now)
    )
    rescued = [each for ids in done for each in ids]
    for delivery_id in rescued:
        log.info("delivery rescued", delivery_id=delivery_id)
    task_queue.enqueue_deliveries(rescued)
    return len(rescued)


def enqueue(
    database: Database,
    task_queue: TaskQueue,
    lost: LostMessages,
    now: datetime,
    worker_timeout: timedelta,
    slots_each: int,
) -> int:
    """Enqueue as many due deliveries as the live workers have room for. Return how many.

    The caller keeps `lost` between runs.
    """
    depth = task_queue.delivery_depth()
    if depth is None:
        return 0
    following = task_queue.next_delivery_id() if depth else None
    with database.read() as tx:
        next_enqueued_at = delivery_enqueued_at(tx, following) if following else None
        alive = [each for each in live_workers(tx, database_now(tx), worker_timeout) if each.draining_at is None]
    slots = len(alive) * slots_each
    enqueued_before = lost.enqueued_before(
        depth, now, is_shown=following is not None, next_enqueued_at=next_enqueued_at
    )
    room = window_size(slots) - depth
    if room <= 0:
        return 0
    with database.begin() as tx:
        due = pick_due_deliveries(tx, now, room, enqueued_before, slots)
    return task_queue.enqueue_deliveries(due)


def prune(database: Database, now: datetime, retention: timedelta) -> int:
    """Erase up to `PRUNED_AT_ONCE` events whose retention has run out, and their deliveries. Return how many."""
    before = now - retention
    with database.begin() as tx:
        return prune_events(tx, before, first_id_at("evt", before), first_id_at("resp", before), PRUNED_AT_ONCE)
