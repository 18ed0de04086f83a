"""What many ask for one by one, done for all of them at once.

Whoever comes while a batch is under way is in the next, which begins as soon as that one ends: no timer, so an idle
server answers at once and a busy one pays for a transaction, a connection and a thread once per batch.
"""

from asyncio import Future, Task, create_task, get_running_loop
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

from anyio import CapacityLimiter, to_thread

Item = TypeVar("Item")
Result = TypeVar("Result")
LARGEST_BATCH: Final = 256


class Together(Generic[Item, Result]):
    """Belongs to one event loop; its batches run in a thread, one after the other."""

    def __init__(self, do: Callable[[Sequence[Item]], Sequence[Result | Exception]]) -> None:
        """`do` may block. It gives a result for each item, in order, or what that one fails with."""
        self._do = do
        self._waiting: list[tuple[Item, Future[Result]]] = []
        self._working: Task[None] | None = None

    async def __call__(self, item: Item) -> Result:
        """The result for `item`, once its batch is done.

        Raises:
            Exception: what `do` gave for this item, or raised for them all.
        """
        future: Future[Result] = get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._working is None:
            self._working = create_task(self._work())
        return await future

    async def _work(self) -> None:
        own_thread = CapacityLimiter(1)  # never behind the handlers that fill the shared pool
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:LARGEST_BATCH], self._waiting[LARGEST_BATCH:]
                items = [item for item, _ in batch]
                results: Sequence[Result | Exception]
                try:
                    results = await to_thread.run_sync(self._do, items, limiter=own_thread)
                except Exception as error:  # noqa: BLE001  # it is theirs who asked
                    results = [error] * len(batch)
                for (_, future), result in zip(batch, results, strict=True):
                    if future.done():  # nobody waits any more
                        continue
                    if isinstance(result, Exception):
                        future.set_exception(result)
                    else:
                        future.set_result(result)
        finally:
            self._working = None
