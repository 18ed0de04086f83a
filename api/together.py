"""What many ask for one by one, done for all of them at once.

Whoever comes while a batch is under way is in the next, which begins as soon as that one ends: no timer, so an idle
server answers at once and a busy one pays for a transaction, a connection and a thread once per batch.
"""

from asyncio import AbstractEventLoop, Future, get_running_loop
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
LARGEST_BATCH: Final = 256


class Together(Generic[Item, Result]):
    """Belongs to one event loop; its batches run in a thread of its own, one after the other."""

    def __init__(self, do: Callable[[Sequence[Item]], Sequence[Result | Exception]]) -> None:
        """`do` may block. It gives a result for each item, in order, or what that one fails with."""
        self._do = do
        self._waiting: list[tuple[Item, Future[Result]]] = []
        self._thread = ThreadPoolExecutor(1)  # never behind the handlers that fill the shared pool
        self.is_busy = False

    async def __call__(self, item: Item) -> Result:
        """The result for `item`, once its batch is done.

        Raises:
            Exception: what `do` gave for this item, or raised for them all.
        """
        loop = get_running_loop()
        future: Future[Result] = loop.create_future()
        self._waiting.append((item, future))
        if not self.is_busy:
            self._begin(loop)
        return await future

    @property
    def waiting(self) -> int:
        """How many wait for the batch that is under way to end."""
        return len(self._waiting)

    def _begin(self, loop: AbstractEventLoop) -> None:
        batch, self._waiting = self._waiting[:LARGEST_BATCH], self._waiting[LARGEST_BATCH:]
        self.is_busy = bool(batch)
        if batch:
            doing = loop.run_in_executor(self._thread, self._do, [item for item, _ in batch])
            doing.add_done_callback(lambda done: self._end(loop, batch, done))

    def _end(
        self,
        loop: AbstractEventLoop,
        batch: Sequence[tuple[Item, Future[Result]]],
        done: "Future[Sequence[Result | Exception]]",
    ) -> None:
        self._begin(loop)
        error = done.exception()
        results = [error] * len(batch) if error is not None else done.result()
        for (_, future), result in zip(batch, results, strict=True):
            if future.done():  # nobody waits any more
                continue
            if isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)
