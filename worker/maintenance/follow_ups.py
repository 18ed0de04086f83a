"""Runs or fails the follow-ups that waited for another response, once that has ended.

This is a task of its own and not a part of each ending. The earlier response may end in a dozen ways, be erased, or end
while the follow-up is being submitted. The rows show all of that.
"""

from contextlib import suppress
from datetime import UTC, datetime

from jobs import text_limits
from jobs.errors import ChainBroken, StaleJob
from jobs.lifecycle import Actor, Verb
from jobs.notifications import Notifier
from jobs.store.conversations import ReadyFollowUp, check_chain, ready_follow_ups, unblock
from jobs.store.database import Database, unless_locked
from jobs.store.jobs import move
from jobs.telemetry import get_logger

BATCH = 200

log = get_logger(__name__)


def run_once(database: Database, notifier: Notifier, now: datetime) -> int:
    """Enqueue or fail every follow-up whose wait is over. Return how many."""
    decided = 0
    while True:
        with database.read() as tx:
            batch = ready_follow_ups(tx, BATCH)
        moved = 0
        for follow_up in batch:
            with unless_locked():
                moved += _decide(database, notifier, follow_up, now)
        decided += moved
        # others may wait for one that has failed; if nothing was moved, the rest is locked by other sessions
        if not moved:
            return decided


def _decide(database: Database, notifier: Notifier, follow_up: ReadyFollowUp, now: datetime) -> bool:
    job = follow_up.job
    if job.blocked_by is None:
        return False
    with database.begin(brief_lock_wait=True) as tx:
        try:
            if check_chain(tx, job.blocked_by, job.api_key_id):
                return False
        except ChainBroken as broken:
            message = broken.message[: text_limits.ERROR_MESSAGE]
            error = {"error_code": broken.code, "error_message": message, "error_param": broken.param}
            deliveries = None
            with suppress(StaleJob):
                _, deliveries = move(tx, Verb.FAIL_DEPENDENCY, [(job, error)], now, by=Actor.FOLLOW_UPS)
        else:
            return unblock(tx, job, now, _due(follow_up, now))
    if deliveries is None:
        return False
    log.info(Verb.FAIL_DEPENDENCY, job_id=job.id, attempt=job.attempt)
    notifier.ended([job.id], deliveries)
    return True


def _due(follow_up: ReadyFollowUp, now: datetime) -> datetime:
    return now if follow_up.run_at is None else max(now, datetime.fromtimestamp(follow_up.run_at, UTC))
