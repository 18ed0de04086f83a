"""The Redis channels of the responses for which this process waits, subscribed only meanwhile.

So Redis sends each process only messages that it needs, however many processes there are. A channel is subscribed a
moment after the wait begins, and again after each reconnection. `on_subscribed` is called then: earlier events have to
be read from the rows.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Final

from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from jobs.asyncio_tasks import cancel_and_wait
from jobs.broker_names import GetNames, Names
from jobs.redis_url import connect_async
from jobs.telemetry import get_logger

LISTEN_AGAIN_AFTER: Final = 0.5
ENDED: Final = b"ended"
WROTE: Final = b"wrote"
BATCH_SECONDS: Final = 0.01
"""Pause between two commands to Redis. Changes within it share the next command."""
CHANNELS_AT_ONCE: Final = 500
LISTEN_SECONDS: Final = 1.0

log = get_logger(__name__)


class RedisSubscription:
    """One connection to Redis for all subscribed responses."""

    def __init__(
        self,
        url: str,
        names: GetNames,
        on_message: Callable[[str, bytes], None],
        on_subscribed: Callable[[str], None],
        on_revoked: Callable[[], None],
    ) -> None:
        """`on_message` gets a response's id and `ENDED` or `WROTE`, `on_subscribed` the id once its channel is open."""
        self._url = url
        self._names = names
        self._on_message = on_message
        self._on_subscribed = on_subscribed
        self._on_revoked = on_revoked
        self._wanted: set[str] = set()
        self._changed: set[str] = set()
        self._is_changed = asyncio.Event()
        self._job_of: dict[str, str] = {}  # by channel

    def add(self, job_id: str) -> None:
        """Subscribe to the channel of a job."""
        self._wanted.add(job_id)
        self._note(job_id)

    def remove(self, job_id: str) -> None:
        """Unsubscribe from the channel of a job."""
        self._wanted.discard(job_id)
        self._note(job_id)

    def _note(self, job_id: str) -> None:
        self._changed.add(job_id)
        self._is_changed.set()

    async def run(self) -> None:
        """Listen until cancelled, and reconnect whenever Redis fails."""
        while True:
            try:
                await self._listen(await asyncio.to_thread(self._names))
            except (RedisError, OSError, SQLAlchemyError) as error:
                log.warning("Redis subscription lost", error=type(error).__name__)
            except Exception:  # else every wait would last until the next read of the rows
                log.exception("Redis subscription failed")
            await asyncio.sleep(LISTEN_AGAIN_AFTER)

    async def _listen(self, names: Names) -> None:
        client = connect_async(self._url)
        async with client, client.pubsub() as subscription:
            # workers of the previous release publish on `ended` and `wrote`
            await subscription.subscribe(names.ended, names.wrote, names.revoked)
            self._job_of = {}
            self._changed |= self._wanted
            self._is_changed.set()
            keeping = asyncio.create_task(self._keep(subscription, names))
            try:
                while not keeping.done():
                    message = await subscription.get_message(timeout=LISTEN_SECONDS)
                    if message is not None:
                        self._receive(names, message)
                keeping.result()
            finally:
                await cancel_and_wait(keeping)

    async def _keep(self, subscription: Any, names: Names) -> None:
        """Keep the subscribed channels equal to the wanted ones."""
        while True:
            await self._is_changed.wait()
            self._is_changed.clear()
            changed, self._changed = self._changed, set()
            channels = {names.of_job(job_id): job_id for job_id in changed}
            added = {channel: job_id for channel, job_id in channels.items() if job_id in self._wanted}
            dropped = [channel for channel in channels if channel not in added and channel in self._job_of]
            added = {channel: job_id for channel, job_id in added.items() if channel not in self._job_of}
            self._job_of |= added
            for channel in dropped:
                del self._job_of[channel]
            for some in _in_chunks(added):
                await subscription.subscribe(*some)
            for some in _in_chunks(dropped):
                await subscription.unsubscribe(*some)
            await asyncio.sleep(BATCH_SECONDS)

    def _receive(self, names: Names, message: dict[str, Any]) -> None:
        channel: str = message["channel"].decode()
        job_id = self._job_of.get(channel)
        if message["type"] == "subscribe":
            if job_id is not None:
                self._on_subscribed(job_id)
        elif message["type"] != "message":
            return
        elif job_id is not None:
            self._on_message(job_id, message["data"])
        elif channel == names.revoked:
            self._on_revoked()
        elif channel in (names.ended, names.wrote):
            job_id = message["data"].decode(errors="replace")  # an invalid id has no waiter
            self._on_message(job_id, ENDED if channel == names.ended else WROTE)


def _in_chunks(channels: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(channels)
    while part := list(islice(rest, CHANNELS_AT_ONCE)):
        yield part
