"""Batches: calls that come at the same time share one transaction.

A call that finds no batch under way starts at once, alone. Calls that come meanwhile wait for that batch to end and
then form the next one. So there is no timer and no delay on an idle machine, and a rush needs fewer transactions.
`Batcher` is for threads and greenlets, `AsyncBatcher` for an event loop.
"""

from asyncio import AbstractEventLoop, Future, get_running_loop
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from threading import Event, Lock
from time import monotonic, sleep
from typing import Final, Generic, TypeVar

OVERTAKEN_AFTER: Final = 1.5
GIVEN_UP_AFTER: Final = 6.0
CHECK_EVERY: Final = 0.25

T = TypeVar("T")
R = TypeVar("R")


class BatchFailed(Exception):
    """A batch of several items failed. Each item may be tried on its own."""


@dataclass(eq=False)
class _Leader:
    """One runner of batches, and the time at which its current batch began."""

    began_at: float

    @property
    def is_stuck(self) -> bool:
        """Return whether the others stop waiting for it."""
        return monotonic() - self.began_at > OVERTAKEN_AFTER


class _Waiter(Generic[T, R]):
    """A caller that waits for its result, or to become the leader of the next batch."""

    __slots__ = ("error", "item", "leader", "result", "woken")

    def __init__(self, item: T) -> None:
        self.item = item
        self.woken = Event()
        self.leader: _Leader | None = None
        self.result: R
        self.error: Exception | None = None


class Batcher(Generic[T, R]):
    """One kind of work, done by the first caller for the others too. Safe to use from any thread or greenlet.

    A stuck batch delays only itself: after `OVERTAKEN_AFTER` seconds another waiter leads the next batch beside it,
    unless `most_stuck` batches are stuck.
    """

    def __init__(self, work: Callable[[Sequence[T]], Sequence[R]], most: int = 50, *, most_stuck: int = 3) -> None:
        """`work` does up to `most` items, all or none, and returns their results in the same order."""
        self._work = work
        self._most = most
        self._most_leaders = 1 + most_stuck
        self._guard = Lock()
        self._waiting: deque[_Waiter[T, R]] = deque()
        self._leaders: list[_Leader] = []

    def do(self, item: T) -> R:
        """Return the result for `item`.

        Raises:
            BatchFailed: its batch had several items and failed.
            Exception: its batch had this item alone, and `work` raised this.
        """
        waiter: _Waiter[T, R] = _Waiter(item)
        with self._guard:
            if self._may_lead():
                self._make_leader(waiter)
            else:
                self._waiting.append(waiter)
        try:
            if waiter.leader is not None:
                sleep(0)  # lets callers that are ready to run join the batch
            else:
                self._wait(waiter)
        except BaseException:  # our greenlet is killed
            self._leave(waiter)
            raise
        if waiter.leader is not None:
            self._lead(waiter, waiter.leader)
        if waiter.error is not None:
            raise waiter.error
        return waiter.result

    def _may_lead(self) -> bool:
        """Return whether one more may lead. The caller holds the guard."""
        return len(self._leaders) < self._most_leaders and all(each.is_stuck for each in self._leaders)

    def _make_leader(self, waiter: _Waiter[T, R]) -> None:
        waiter.leader = _Leader(monotonic())
        self._leaders.append(waiter.leader)

    def _promote_next(self) -> None:
        if self._waiting and self._may_lead():
            following = self._waiting.popleft()
            self._make_leader(following)
            following.woken.set()

    def _wait(self, waiter: _Waiter[T, R]) -> None:
        while not waiter.woken.wait(OVERTAKEN_AFTER):
            with self._guard:
                if waiter in self._waiting and self._may_lead():
                    self._waiting.remove(waiter)
                    self._make_leader(waiter)
                    return

    def _lead(self, waiter: _Waiter[T, R], leader: _Leader) -> None:
        """Run the next batch, with our own item first, then promote the next leader."""
        with self._guard:
            others = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._most - 1))]
            leader.began_at = monotonic()
        batch = [waiter, *others]
        try:
            for each, result in zip(batch, self._work([each.item for each in batch]), strict=True):
                each.result = result
        except Exception as error:  # noqa: BLE001  # each waiter raises it
            self._fail(batch, error)
        except BaseException:  # this thread or greenlet is ended
            self._fail(batch, BatchFailed("the leader was killed"))
            raise
        finally:
            for each in others:
                each.woken.set()
            with self._guard:
                self._leaders.remove(leader)
                self._promote_next()

    def _leave(self, waiter: _Waiter[T, R]) -> None:
        """Stop waiting. A leader promotes the next one."""
        with self._guard:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            elif waiter.leader is not None:
                self._leaders.remove(waiter.leader)
                self._promote_next()

    @staticmethod
    def _fail(batch: Sequence[_Waiter[T, R]], error: Exception) -> None:
        for waiter in batch:
            waiter.error = error
            if len(batch) > 1:
                waiter.error = BatchFailed(type(error).__name__)
                waiter.error.__cause__ = error


class NotBegun(Exception):
    """No batch took the item in time, because earlier batches are stuck. Nothing was done for it."""


class AsyncBatcher(Generic[T, R]):
    """One kind of work, done in threads of its own. Belongs to one event loop.

    A stuck batch delays only itself: after `OVERTAKEN_AFTER` seconds another thread takes the next batch, up to
    `most_stuck` + 1 threads. An item that no batch has taken after `GIVEN_UP_AFTER` seconds fails with `NotBegun`.
    """

    def __init__(
        self, work: Callable[[Sequence[T]], Sequence[R | Exception]], most: int = 256, *, most_stuck: int = 3
    ) -> None:
        """`work` may block. For each of up to `most` items it returns, in order, a result or the exception to raise."""
        self._work = work
        self._most = most
        self._waiting: deque[tuple[T, Future[R], float]] = deque()
        self._leaders: list[_Leader] = []
        self._most_leaders = 1 + most_stuck
        self._threads = ThreadPoolExecutor(self._most_leaders)  # the shared pool may be full of handlers
        self._is_check_due = False
        self.is_busy = False

    async def do(self, item: T) -> R:
        """Return the result for `item` once its batch is done.

        Raises:
            NotBegun: no batch took it in time.
            Exception: `work` returned it for this item, or raised it for the batch.
        """
        loop = get_running_loop()
        future: Future[R] = loop.create_future()
        self._waiting.append((item, future, monotonic()))
        if not self.is_busy:
            self.is_busy = True
            loop.call_soon(self._start, loop)
        return await future

    def _start(self, loop: AbstractEventLoop) -> None:
        if self._waiting:
            leader = _Leader(monotonic())
            self._leaders.append(leader)
            self._threads.submit(self._lead, loop, leader)
            self._check_later(loop)
        self.is_busy = bool(self._leaders)

    def _finish(self, loop: AbstractEventLoop, leader: _Leader) -> None:
        self._leaders.remove(leader)
        if all(each.is_stuck for each in self._leaders):
            self._start(loop)  # with the items that came since
        self.is_busy = bool(self._leaders)

    def _check_later(self, loop: AbstractEventLoop) -> None:
        if not self._is_check_due:
            self._is_check_due = True
            loop.call_later(CHECK_EVERY, self._check, loop)

    def _check(self, loop: AbstractEventLoop) -> None:
        self._is_check_due = False
        if not self._leaders:
            return
        while self._waiting and monotonic() - self._waiting[0][2] > GIVEN_UP_AFTER:
            with suppress(IndexError):  # a leader has just taken it
                _, future, _ = self._waiting.popleft()
                if not future.done():
                    future.set_exception(NotBegun(f"not begun within {GIVEN_UP_AFTER:g} s"))
        if len(self._leaders) < self._most_leaders and all(each.is_stuck for each in self._leaders):
            self._start(loop)
        self._check_later(loop)

    def _lead(self, loop: AbstractEventLoop, leader: _Leader) -> None:
        """Run batches until no item waits, without the loop: it may be busy with earlier results (decision 0004)."""
        while batch := self._next():
            leader.began_at = monotonic()
            results: Sequence[R | BaseException]
            try:
                results = self._work([item for item, _ in batch])
            except BaseException as error:  # noqa: BLE001  # each waiter raises it
                results = [error] * len(batch)
            loop.call_soon_threadsafe(self._resolve, [future for _, future in batch], results)
        loop.call_soon_threadsafe(self._finish, loop, leader)

    def _next(self) -> list[tuple[T, Future[R]]]:
        batch: list[tuple[T, Future[R]]] = []
        with suppress(IndexError):  # no item is left, or another leader took the rest
            while len(batch) < self._most:
                item, future, _ = self._waiting.popleft()
                batch.append((item, future))
        return batch

    @staticmethod
    def _resolve(futures: Sequence[Future[R]], results: Sequence[R | BaseException]) -> None:
        for future, result in zip(futures, results, strict=True):
            if future.done():  # its caller was cancelled
                continue
            if isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)
