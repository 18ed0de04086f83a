"""The channels of the responses that somebody in this process waits for, subscribed only while they do.

Redis so sends each process what is of use to it, however many others there are. A channel is subscribed a moment after
somebody began to wait, and again after each reconnection; whoever listens is told when it is, and has to look at what
happened before.
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
"""Between two commands to Redis; who comes meanwhile shares the next one."""
CHANNELS_AT_ONCE: Final = 500
LISTEN_SECONDS: Final = 1.0

log = get_logger(__name__)


class RedisSubscription:
    """One connection to Redis, and what is heard over it."""

    def __init__(
        self,
        url: str,
        names: GetNames,
        on_message: Callable[[str, bytes], None],
        on_subscribed: Callable[[str], None],
        on_revoked: Callable[[], None],
    ) -> None:
        """`on_message` is given a response's id and `ENDED` or `WROTE`; `on_subscribed` from when on that is so."""
        self._url = url
        self._names = names
        self._on_message = on_message
        self._on_subscribed = on_subscribed
        self._on_revoked = on_revoked
        self._wanted: set[str] = set()
        self._changed: set[str] = set()
        self._is_changed = asyncio.Event()
        self._job_of: dict[str, str] = {}  # by channel

    def want(self, job_id: str) -> None:
        """Somebody waits for it."""
        self._wanted.add(job_id)
        self._note(job_id)

    def forget(self, job_id: str) -> None:
        """Nobody waits for it any more."""
        self._wanted.discard(job_id)
        self._note(job_id)

    def _note(self, job_id: str) -> None:
        self._changed.add(job_id)
        self._is_changed.set()

    async def run(self) -> None:
        """Listen until cancelled; a Redis that is away is tried again and again."""
        while True:
            try:
                await self._listen(await asyncio.to_thread(self._names))
            except (RedisError, OSError, SQLAlchemyError) as error:
                log.warning("event subscription lost", error=type(error).__name__)
            except Exception:  # whatever broke, somebody has to listen: else every wait takes until the next look
                log.exception("event subscription broke")
            await asyncio.sleep(LISTEN_AGAIN_AFTER)

    async def _listen(self, names: Names) -> None:
        client = connect_async(self._url)
        async with client, client.pubsub() as subscription:
            # `ended` and `wrote` are where workers of the release before this one publish
            await subscription.subscribe(names.ended, names.wrote, names.revoked)
            self._job_of = {}
            self._changed |= self._wanted
            self._is_changed.set()
            keeping = asyncio.create_task(self._keep(subscription, names))
            try:
                while not keeping.done():
                    message = await subscription.get_message(timeout=LISTEN_SECONDS)
                    if message is not None:
                        self._hear(names, message)
                keeping.result()
            finally:
                await cancel_and_wait(keeping)

    async def _keep(self, subscription: Any, names: Names) -> None:
        """Subscribe what is wanted, and nothing else."""
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
            for some in _in_parts(added):
                await subscription.subscribe(*some)
            for some in _in_parts(dropped):
                await subscription.unsubscribe(*some)
            await asyncio.sleep(BATCH_SECONDS)

    def _hear(self, names: Names, message: dict[str, Any]) -> None:
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
            job_id = message["data"].decode(errors="replace")  # rubbish names nobody who waits
            self._on_message(job_id, ENDED if channel == names.ended else WROTE)


def _in_parts(channels: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(channels)
    while part := list(islice(rest, CHANNELS_AT_ONCE)):
        yield part
