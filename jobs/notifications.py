"""Notifications over Redis pub/sub: a response ended or has new events, or a call should stop.

They only save time. A waiter also reads the rows now and then, so a flushed or restarted Redis costs seconds, never an
answer.
"""

import asyncio
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Final, Self

import redis
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from jobs.asyncio_tasks import cancel_and_wait
from jobs.broker_names import GetNames, Names
from jobs.cancel_reason import AbortReason
from jobs.redis_subscription import ENDED, WROTE, RedisSubscription
from jobs.telemetry import get_logger

READ_EVERY: Final = 5.0
READ_AFTER_SECONDS: Final = 0.1
"""Delay of the read after a subscription. Earlier events are rare, and one query serves many waiters."""
QUIET_AFTER_FAILURE: Final = 1.0
_GONE: Final = float("inf")

_STOP: Final = re.compile(rb"(?P<job_id>[!-~]{1,100}) (?P<attempt>[1-9][0-9]{0,5}) (?P<reason>[a-z_]{1,40})")
"""A stop message. Anyone who reaches Redis may publish, so an attempt has at most six digits, more than any job."""
_REASONS: Final = {reason.value.encode(): reason for reason in AbortReason}

log = get_logger(__name__)


@dataclass(frozen=True)
class Stop:
    """A request to end the calls of one job, up to and including `attempt`."""

    job_id: str
    attempt: int
    reason: AbortReason

    def to_text(self) -> str:
        """Return the message."""
        return f"{self.job_id} {self.attempt} {self.reason}"

    @classmethod
    def from_bytes(cls, message: bytes) -> "Stop | None":
        """Parse a message; None if `to_text` would not write it."""
        match = _STOP.fullmatch(message)
        reason = match and _REASONS.get(match["reason"])
        if match is None or reason is None:
            return None
        return cls(match["job_id"].decode(), int(match["attempt"]), reason)


class Notifier:
    """Publishes notifications to every process. Never raises, because the rows hold the truth."""

    def __init__(
        self,
        client: "redis.Redis",
        names: GetNames,
        on_end: Callable[[Sequence[str]], None] = lambda _delivery_ids: None,
    ) -> None:
        """`on_end` is called with the webhook deliveries of ended responses; it must not raise."""
        self._client = client
        self._names = names
        self._on_end = on_end
        self._quiet_until = 0.0

    def ended(self, job_ids: Sequence[str], delivery_ids: Sequence[str]) -> None:
        """Publish that responses are in a final status. `delivery_ids` are the webhook deliveries that this created."""
        if job_ids:
            self._publish(lambda names: [(names.of_job(each), ENDED) for each in job_ids])
            self._on_end(delivery_ids)

    def test_ended(self, delivery_id: str) -> None:
        """Publish that a test delivery of a webhook is over. Its waiters wait as for a response."""
        self._publish(lambda names: [(names.of_job(delivery_id), ENDED)])

    def wrote(self, *job_ids: str) -> None:
        """Publish that running responses have new events."""
        if job_ids:
            self._publish(lambda names: [(names.of_job(each), WROTE) for each in job_ids])

    def stop(self, job_id: str, attempt: int, reason: AbortReason) -> None:
        """Ask the worker that holds a call of this job to end it, unless its attempt is later than `attempt`."""
        self._publish(lambda names: [(names.stop, Stop(job_id, attempt, reason).to_text().encode())])

    def revoked(self, key_id: str) -> None:
        """Publish that an API key was revoked."""
        self._publish(lambda names: [(names.revoked, key_id.encode())])

    def _publish(self, messages: Callable[[Names], Sequence[tuple[str, bytes]]]) -> None:
        """Publish each message, given with its channel."""
        if monotonic() < self._quiet_until:  # a Redis that hangs must not delay every caller
            return
        try:
            with self._client.pipeline(transaction=False) as batch:
                for channel, message in messages(self._names()):
                    batch.publish(channel, message)
                batch.execute()
        except (RedisError, OSError, SQLAlchemyError) as error:
            self._quiet_until = monotonic() + QUIET_AFTER_FAILURE
            log.warning("notification not published", error=type(error).__name__)


class Listener:
    """All subscriptions of this process to responses, over one connection to Redis."""

    def __init__(
        self,
        url: str,
        names: GetNames,
        ended_among: Callable[[Iterable[str]], set[str]],
        emitted_counts: Callable[[Iterable[str]], Mapping[str, float]],
        on_revoked: Callable[[], None] = lambda: None,
    ) -> None:
        """`ended_among` and `emitted_counts` read the rows, and may block.

        `ended_among` returns the responses that have ended. `emitted_counts` returns the number of events of each
        response: infinity if it has ended, and no entry if it is gone. `on_revoked` is called if a key may have been
        revoked.
        """
        self._ended_among = ended_among
        self._emitted_counts = emitted_counts
        self._waiting: dict[str, set[Subscription]] = {}
        self._watching: dict[str, set[Subscription]] = {}
        self._redis_subscription = RedisSubscription(url, names, self._receive, self._read_soon, on_revoked)
        self._unread: set[str] = set()
        self._read_is_due = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start to listen."""
        loops = (self._redis_subscription.run(), self._read_all(), self._read_subscribed())
        self._tasks = [asyncio.create_task(each) for each in loops]

    async def stop(self) -> None:
        """Stop listening and wake every waiter."""
        await cancel_and_wait(*self._tasks)
        for job_id in {*self._waiting, *self._watching}:
            self._wake(job_id)

    def subscribe(self, job_id: str) -> "Subscription":
        """Return a subscription to the end of a response. Read the row after entering it and before `wait`."""
        return Subscription(self._waiting, job_id, self._changed)

    def watch(self, job_id: str) -> "Subscription":
        """Return a subscription to every new event of a response. Set `reached` to the events read before `wait`."""
        return Subscription(self._watching, job_id, self._changed)

    def _changed(self, job_id: str) -> None:
        if job_id in self._waiting or job_id in self._watching:
            self._redis_subscription.add(job_id)
        else:
            self._redis_subscription.remove(job_id)

    async def _read_all(self) -> None:
        while True:
            await asyncio.sleep(READ_EVERY)
            await self._read([*self._waiting], [*self._watching])

    def _receive(self, job_id: str, message: bytes) -> None:
        if message == ENDED:
            self._wake(job_id)
        else:
            _wake_all(self._watching.get(job_id, ()))

    def _read_soon(self, job_id: str) -> None:
        """Read the row of a job that was just subscribed: earlier notifications were not received."""
        self._unread.add(job_id)
        self._read_is_due.set()

    async def _read_subscribed(self) -> None:
        while True:
            await self._read_is_due.wait()
            await asyncio.sleep(READ_AFTER_SECONDS)
            self._read_is_due.clear()
            job_ids, self._unread = self._unread, set()
            await self._read(self._waiting.keys() & job_ids, self._watching.keys() & job_ids)

    async def _read(self, waiting: Collection[str], watching: Collection[str]) -> None:
        """Read the rows, one query for `waiting` and one for `watching`, and wake those with news."""
        try:
            if waiting:
                for job_id in await asyncio.to_thread(self._ended_among, waiting):
                    self._wake(job_id)
            if watching:
                emitted = await asyncio.to_thread(self._emitted_counts, watching)
                for job_id in watching:
                    _wake_all(
                        each for each in self._watching.get(job_id, ()) if each.reached < emitted.get(job_id, _GONE)
                    )
        except Exception as error:  # noqa: BLE001  # an unavailable database must not end the loop
            log.warning("responses not read for waiters", error=type(error).__name__)

    def _wake(self, job_id: str) -> None:
        _wake_all(self._waiting.get(job_id, ()))
        _wake_all(self._watching.get(job_id, ()))


class Subscription:
    """One waiter, as a context manager that ends the subscription."""

    def __init__(self, waiting: "dict[str, set[Subscription]]", job_id: str, on_change: Callable[[str], None]) -> None:
        """`on_change` is called when the first waiter of a job begins and when its last one stops."""
        self.reached = 0
        self._waiting = waiting
        self._job_id = job_id
        self._on_change = on_change
        self._event = asyncio.Event()

    def __enter__(self) -> Self:
        others = self._waiting.setdefault(self._job_id, set())
        others.add(self)
        if len(others) == 1:
            self._on_change(self._job_id)
        return self

    def __exit__(self, *_error: object) -> None:
        others = self._waiting[self._job_id]
        others.discard(self)
        if not others:
            del self._waiting[self._job_id]
            self._on_change(self._job_id)

    def wake(self) -> None:
        """End the current wait, or else the next one."""
        self._event.set()

    async def wait(self, seconds: float | None) -> bool:
        """Wait until there may be news; return False after `seconds`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._event.wait()
            self._event.clear()
            return True
        return False


def _wake_all(subscriptions: Iterable[Subscription]) -> None:
    for each in list(subscriptions):
        each.wake()
