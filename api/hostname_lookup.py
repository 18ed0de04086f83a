"""DNS look-ups of webhook destinations. Callers do not learn what was found."""

import asyncio
import socket
from asyncio import AbstractEventLoop, Future, get_running_loop
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from ipaddress import ip_address
from threading import Thread
from typing import Any, Final

from jobs.fair_shares import Shares
from jobs.webhooks.url_policy import Address, Destination, DestinationPolicy, DestinationRefused

LOOKUP_SECONDS: Final = 3.0
LOOKUPS_AT_ONCE: Final = 32
REMEMBERED_SECONDS: Final = 60.0
REMEMBERED: Final = 10_000

Addresses = list[Address]
LookUp = Callable[..., Iterable[tuple[Any, ...]]]


class Lookups:
    """Look-ups in threads that API keys share fairly: a name that hangs delays only look-ups of the same key.

    A thread cannot be stopped, so it counts for its key until it ends. Belongs to one event loop.
    """

    def __init__(
        self, at_once: int = LOOKUPS_AT_ONCE, seconds: float = LOOKUP_SECONDS, look_up: LookUp = socket.getaddrinfo
    ) -> None:
        self._shares = Shares(at_once)
        self._seconds = seconds
        self._look_up = look_up
        self._waiting: dict[str, deque[Future[None]]] = {}
        self._remembered: dict[tuple[str, str], float] = {}

    async def allows(self, api_key_id: str, destination: Destination, policy: DestinationPolicy) -> bool:
        """Return whether all addresses of the destination's host are allowed by `policy`.

        Each refusal takes the whole time limit, so that its time does not show whether the name is unknown, has
        forbidden addresses, or got no answer. An allowed destination is remembered for a minute.
        """
        now = get_running_loop().time
        ends_at = now() + self._seconds
        known = (api_key_id, destination.origin)
        if self._remembered.get(known, 0.0) > now():
            return True
        with suppress(OSError, ValueError, DestinationRefused):  # TimeoutError is an OSError
            async with asyncio.timeout_at(ends_at):
                found = await self._find(api_key_id, destination)
            policy.check_addresses(destination, found)
            if found:
                self._remember(known, now() + REMEMBERED_SECONDS)
                return True
        await asyncio.sleep(ends_at - now())
        return False

    def _remember(self, known: tuple[str, str], until: float) -> None:
        self._remembered.pop(known, None)  # keeps the oldest first
        self._remembered[known] = until
        while len(self._remembered) > REMEMBERED:
            del self._remembered[next(iter(self._remembered))]

    async def _find(self, api_key_id: str, destination: Destination) -> Addresses:
        loop = get_running_loop()
        await self._take_thread(api_key_id, loop)
        found: Future[Addresses] = loop.create_future()
        thread = Thread(target=self._ask, args=(loop, found, api_key_id, destination), daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            self._give_back(api_key_id)
            raise OSError("cannot start a thread") from error
        return await found

    def _ask(
        self, loop: AbstractEventLoop, found: "Future[Addresses]", api_key_id: str, destination: Destination
    ) -> None:
        result: Addresses | Exception
        try:
            result = _read(self._look_up(destination.host, destination.port, type=socket.SOCK_STREAM))
        except Exception as error:  # noqa: BLE001  # raised where it is awaited
            result = error
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(self._ended, found, api_key_id, result)

    def _ended(self, found: "Future[Addresses]", api_key_id: str, result: Addresses | Exception) -> None:
        self._give_back(api_key_id)
        if found.done():  # its request has timed out
            return
        if isinstance(result, Exception):
            found.set_exception(result)
        else:
            found.set_result(result)

    async def _take_thread(self, api_key_id: str, loop: AbstractEventLoop) -> None:
        if api_key_id not in self._waiting and self._shares.take(api_key_id):
            return
        waiter: Future[None] = loop.create_future()
        self._waiting.setdefault(api_key_id, deque()).append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled():  # the thread was given to it at the same moment
                self._give_back(api_key_id)
            raise

    def _give_back(self, api_key_id: str) -> None:
        """Release a thread, and give free threads to the first waiters of each key, within the key's share."""
        self._shares.give_back(api_key_id)
        for key, waiters in list(self._waiting.items()):
            while waiters and (waiters[0].done() or self._shares.take(key)):
                waiter = waiters.popleft()
                if not waiter.done():
                    waiter.set_result(None)
            if not waiters:
                del self._waiting[key]


def _read(found: Iterable[tuple[Any, ...]]) -> Addresses:
    return [ip_address(str(each[4][0]).partition("%")[0]) for each in found]
