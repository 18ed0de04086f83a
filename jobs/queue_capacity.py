"""Number of messages that the broker's queue may hold, and the messages that count as lost.

The backlog stays in SQL. The broker gets a small multiple of the live workers' slots, so that a retry, a priority or a
fair round takes effect at once.
"""

from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Final

from sqlalchemy import Connection

from jobs.store.database import READ_SECONDS, Database, database_now
from jobs.store.provider_limits import ProviderLimit, ProviderLimitSettings, read_provider_limit, running_calls
from jobs.store.workers import live_slots
from jobs.task_queue import TaskQueue

WINDOW_PER_SLOT: Final = 2
FRESH_SECONDS: Final = 0.25
TO_CLAIM: Final = timedelta(seconds=0.5)
"""Time within which a worker claims a job after it has taken the message."""
OUT_OF_ORDER: Final = timedelta(seconds=1)
"""Time by which the order in the queue may differ from that of `enqueued_at`: the length of a commit."""
NOT_SHOWN_FOR: Final = timedelta(seconds=5)
_LONG_AGO: Final = datetime.fromtimestamp(0, UTC)


def window_size(slots: int) -> int:
    """Return the number of messages that may wait at once for this number of slots of live workers."""
    return WINDOW_PER_SLOT * slots


def free_capacity(
    tx: Connection,
    task_queue: TaskQueue,
    provider_limit: ProviderLimitSettings,
    current: ProviderLimit,
    *,
    depth: int,
    slots: int,
    now: datetime,
) -> int:
    """Return the number of messages that may be enqueued now: limited by the window and the provider limit.

    `depth` messages wait already.
    """
    if current.paused_at is not None:
        return 0 if current.refuses_all(now) or depth else 1
    limit = provider_limit.limit(current)
    if limit is None and task_queue.holds_messages:
        return max(0, window_size(slots) - depth)
    out = running_calls(tx)
    window = window_size(slots) if task_queue.holds_messages else slots - out
    return max(0, min(window, slots if limit is None else limit - out) - depth)


class QueueCapacity:
    """The free capacity of the broker's queue, read seldom and reserved often.

    `refresh` asks the database and the broker; `reserve` asks neither.
    """

    def __init__(
        self,
        database: Database,
        task_queue: TaskQueue,
        provider_limit: ProviderLimitSettings,
        worker_timeout: timedelta,
    ) -> None:
        self._database = database
        self._task_queue = task_queue
        self._provider_limit = provider_limit
        self._worker_timeout = worker_timeout
        self._free = 0
        self._refreshed_at = float("-inf")

    @property
    def is_stale(self) -> bool:
        """Return whether the last refresh is too long ago."""
        return monotonic() - self._refreshed_at > FRESH_SECONDS

    def refresh(self) -> None:
        """Read the free capacity."""
        self._refreshed_at = monotonic()
        self._free = 0  # while a broker hangs nobody enqueues
        self._free = self.free()

    def reserve(self, wanted: int) -> int:
        """Take up to `wanted` places and return their number. Concurrent callers may take the same ones."""
        taken = max(0, min(wanted, self._free))
        self._free -= taken
        return taken

    def free(self) -> int:
        """Return the number of messages that may be enqueued now; 0 if the broker is unavailable."""
        depth = self._task_queue.depth()
        if depth is None:
            return 0
        with self._database.read(within=READ_SECONDS) as tx:
            now = database_now(tx)
            slots = live_slots(tx, now, self._worker_timeout)
            current = read_provider_limit(tx, self._provider_limit.name)
            return free_capacity(tx, self._task_queue, self._provider_limit, current, depth=depth, slots=slots, now=now)


class LostMessages:
    """The time before which a message of a queued job counts as lost, so that it is sent again.

    A queue hands out its oldest message first. So a message that was enqueued before the next one has left the queue:
    a worker is about to claim its job, or the message was lost. If the job is still queued half a second later, the
    message was lost. Only Redis shows the next message. With any other broker every message that has waited long enough
    counts as lost.
    """

    def __init__(self) -> None:
        self._seen_at = float("-inf")
        self._out = self._lost = _LONG_AGO

    def enqueued_before(
        self, depth: int, now: datetime, *, is_shown: bool, next_enqueued_at: datetime | None
    ) -> datetime:
        """Return the time before which messages of jobs that are still queued count as lost.

        `depth` messages are in the queue. `next_enqueued_at` is when the next one was enqueued, if that is known and
        its job is still queued.
        """
        if depth == 0:  # the queue is empty, so no message is left in it
            return now - TO_CLAIM
        if not is_shown:
            return now - NOT_SHOWN_FOR
        if next_enqueued_at is not None and monotonic() - self._seen_at >= TO_CLAIM.total_seconds():
            self._lost = self._out
            self._seen_at, self._out = monotonic(), next_enqueued_at - OUT_OF_ORDER
        return min(self._lost, now - TO_CLAIM)
