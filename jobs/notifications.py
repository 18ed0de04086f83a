"""What has just happened, told over Redis pub/sub: a response ended or has more to show; a call should stop.

Announcements only save time. Whoever waits also looks at the rows now and then, so a flushed or restarted Redis
costs seconds, never an answer.
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

LOOK_EVERY: Final = 5.0
LOOK_AFTER_SECONDS: Final = 0.1
"""After a subscription. It is rare that something happened just before, and one question serves many."""
QUIET_AFTER_FAILURE: Final = 1.0
_GONE: Final = float("inf")

_STOP: Final = re.compile(rb"(?P<job_id>[!-~]{1,100}) (?P<attempt>[1-9][0-9]{0,5}) (?P<reason>[a-z_]{1,40})")
"""A word to stop. Anybody who reaches Redis may publish, so an attempt has six digits at most: no job has so many."""
_REASONS: Final = {reason.value.encode(): reason for reason in AbortReason}

log = get_logger(__name__)


@dataclass(frozen=True)
class Stop:
    """A word to end the calls of one job, up to an attempt."""

    job_id: str
    attempt: int
    reason: AbortReason

    def to_text(self) -> str:
        """Return the message that says so."""
        return f"{self.job_id} {self.attempt} {self.reason}"

    @classmethod
    def from_bytes(cls, message: bytes) -> "Stop | None":
        """Read a message; None if it is not one that `to_text` makes."""
        match = _STOP.fullmatch(message)
        reason = match and _REASONS.get(match["reason"])
        if match is None or reason is None:
            return None
        return cls(match["job_id"].decode(), int(match["attempt"]), reason)


class Notifier:
    """Tells every process of an event. Never raises: the rows hold the truth."""

    def __init__(
        self,
        client: "redis.Redis",
        names: GetNames,
        on_end: Callable[[Sequence[str], Sequence[str] | None], None] = lambda _job_ids, _deliveries: None,
    ) -> None:
        """`on_end` is told of ends as well, and never raises."""
        self._client = client
        self._names = names
        self._on_end = on_end
        self._quiet_until = 0.0

    def ended(self, *job_ids: str, deliveries: Sequence[str] | None = None) -> None:
        """Responses have reached a terminal status; `deliveries` are all that this has made, if that is known."""
        if job_ids:
            self._publish(lambda names: [(names.of_job(each), ENDED) for each in job_ids])
            self._on_end(job_ids, deliveries)

    def tested(self, delivery_id: str) -> None:
        """A webhook's test delivery is over; whoever waits for it waits as for a response."""
        self._publish(lambda names: [(names.of_job(delivery_id), ENDED)])

    def wrote(self, *job_ids: str) -> None:
        """Responses that run have more to show to those who watch them."""
        if job_ids:
            self._publish(lambda names: [(names.of_job(each), WROTE) for each in job_ids])

    def stop(self, job_id: str, attempt: int, reason: AbortReason) -> None:
        """Whoever holds a call of this job should end it, up to `attempt`: a word that comes late ends no later one."""
        self._publish(lambda names: [(names.stop, Stop(job_id, attempt, reason).to_text().encode())])

    def revoked(self, key_id: str) -> None:
        """A key is not valid any more; whoever serves it should look."""
        self._publish(lambda names: [(names.revoked, key_id.encode())])

    def _publish(self, messages: Callable[[Names], Sequence[tuple[str, bytes]]]) -> None:
        """Publish each message, given with its channel."""
        if monotonic() < self._quiet_until:  # a Redis that hangs must not slow every caller down
            return
        try:
            with self._client.pipeline(transaction=False) as batch:
                for channel, message in messages(self._names()):
                    batch.publish(channel, message)
                batch.execute()
        except (RedisError, OSError, SQLAlchemyError) as error:
            self._quiet_until = monotonic() + QUIET_AFTER_FAILURE
            log.warning("announcement not heard", error=type(error).__name__)


class Listener:
    """Everyone in this process who waits for a response to end, or watches it run, behind one subscription."""

    def __init__(
        self,
        url: str,
        names: GetNames,
        ended_among: Callable[[Iterable[str]], set[str]],
        emitted_counts: Callable[[Iterable[str]], Mapping[str, float]],
        on_revoked: Callable[[], None] = lambda: None,
    ) -> None:
        """Two look at the rows, and may block.

        `ended_among` returns those responses that have ended; `emitted_counts` how many events of each there are to
        show, endless of one that has ended, and nothing of one that is gone.

        `on_revoked` is called whenever a key may have been revoked.
        """
        self._ended_among = ended_among
        self._emitted_counts = emitted_counts
        self._waiting: dict[str, set[Subscription]] = {}
        self._watching: dict[str, set[Subscription]] = {}
        self._redis_subscription = RedisSubscription(url, names, self._hear, self._look_soon, on_revoked)
        self._to_look_at: set[str] = set()
        self._look_is_due = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to listen."""
        loops = (self._redis_subscription.run(), self._look(), self._look_at_subscribed())
        self._tasks = [asyncio.create_task(each) for each in loops]

    async def stop(self) -> None:
        """Stop listening and let everyone go."""
        await cancel_and_wait(*self._tasks)
        for job_id in {*self._waiting, *self._watching}:
            self._wake(job_id)

    def expect(self, job_id: str) -> "Subscription":
        """Begin to wait; look at the row after this and before `wait`, so that no end falls between."""
        return Subscription(self._waiting, job_id, self._changed)

    def watch(self, job_id: str) -> "Subscription":
        """The same for whoever wants to see every event of a response that runs.

        Before each `wait` it says how many it has: `reached`.
        """
        return Subscription(self._watching, job_id, self._changed)

    def _changed(self, job_id: str) -> None:
        """Somebody has begun to wait for it, or has stopped."""
        if job_id in self._waiting or job_id in self._watching:
            self._redis_subscription.want(job_id)
        else:
            self._redis_subscription.forget(job_id)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY)
            await self._look_at([*self._waiting], [*self._watching])

    def _hear(self, job_id: str, message: bytes) -> None:
        if message == ENDED:
            self._wake(job_id)
        else:
            _wake_all(self._watching.get(job_id, ()))

    def _look_soon(self, job_id: str) -> None:
        """It is subscribed from now on; what happened before was not heard."""
        self._to_look_at.add(job_id)
        self._look_is_due.set()

    async def _look_at_subscribed(self) -> None:
        while True:
            await self._look_is_due.wait()
            await asyncio.sleep(LOOK_AFTER_SECONDS)
            self._look_is_due.clear()
            job_ids, self._to_look_at = self._to_look_at, set()
            await self._look_at(self._waiting.keys() & job_ids, self._watching.keys() & job_ids)

    async def _look_at(self, waiting: Collection[str], watching: Collection[str]) -> None:
        """Ask once for all who wait and once for all who watch; only those wake that have something to see."""
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
        except Exception as error:  # noqa: BLE001  # a database that is away must not end the watch
            log.warning("could not look for news of responses", error=type(error).__name__)

    def _wake(self, job_id: str) -> None:
        _wake_all(self._waiting.get(job_id, ()))
        _wake_all(self._watching.get(job_id, ()))


class Subscription:
    """One waiter's place; a context manager that gives it up again."""

    def __init__(self, waiting: "dict[str, set[Subscription]]", job_id: str, on_change: Callable[[str], None]) -> None:
        """`on_change` is called when the first has begun to wait, and the last has stopped."""
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
        """End the wait, if one is under way, else the next one."""
        self._event.set()

    async def wait(self, seconds: float | None) -> bool:
        """Sleep until the response may have ended; False after `seconds`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._event.wait()
            self._event.clear()
            return True
        return False


def _wake_all(expectations: Iterable[Subscription]) -> None:
    for each in list(expectations):
        each.wake()
