"""Fills the broker's queue from the backlog in SQL, and sends every message that was lost once more."""

from datetime import datetime, timedelta

from jobs.queue_capacity import LostMessages, free_capacity
from jobs.store.database import Database, database_now, unless_locked
from jobs.store.fair_scheduler import FairScheduler, enqueued_at_of
from jobs.store.provider_limits import ProviderLimitSettings, read_provider_limit, relax_if_quiet
from jobs.store.workers import live_slots
from jobs.task_queue import TaskQueue


def run_once(
    database: Database,
    task_queue: TaskQueue,
    scheduler: FairScheduler,
    lost: LostMessages,
    provider_limit: ProviderLimitSettings,
    now: datetime,
    *,
    worker_timeout: timedelta,
) -> int:
    """Enqueue as many due jobs as the queue and the provider limit have room for. Return how many.

    The caller keeps `scheduler` and `lost` between runs.
    """
    depth = task_queue.depth()
    if depth is None:
        return 0
    following = task_queue.next_job_id() if depth else None
    with database.read() as tx:
        next_enqueued_at = enqueued_at_of(tx, following) if following else None
        slots = live_slots(tx, database_now(tx), worker_timeout)
        current = read_provider_limit(tx, provider_limit.name)
        room = free_capacity(tx, task_queue, provider_limit, current, depth=depth, slots=slots, now=now)
    if current.max_calls is not None:
        with unless_locked(), database.begin(brief_lock_wait=True) as tx:
            relax_if_quiet(tx, current, now, slots)
    enqueued_before = lost.enqueued_before(
        depth, now, is_shown=following is not None, next_enqueued_at=next_enqueued_at
    )
    if room <= 0:
        return 0
    with database.begin() as tx:
        due = scheduler.pick(tx, now, room, enqueued_before)
    return task_queue.enqueue(due)
