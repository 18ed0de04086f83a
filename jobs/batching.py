"""Doing together, in one transaction, what comes at the same time.

Whoever comes while nothing is under way begins at once, and alone. Who comes meanwhile waits for that to end, and then
all who wait go together: no timer, no wait on an idle machine, and the larger the rush the fewer the transactions.
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
WATCHED_EVERY: Final = 0.25

T = TypeVar("T")
R = TypeVar("R")


class BatchFailed(Exception):
    """What several did together failed, for one of them or for all: each may try on its own."""


@dataclass(eq=False)
class _Leader:
    """One who does batches, and since when it has been at the present one."""

    began_at: float

    @property
    def is_stuck(self) -> bool:
        """Whether others go on without it."""
        return monotonic() - self.began_at > OVERTAKEN_AFTER


class _Place(Generic[T, R]):
    """One who waits: for the result, or for the turn to lead the next batch."""

    __slots__ = ("error", "item", "leads", "result", "woken")

    def __init__(self, item: T) -> None:
        self.item = item
        self.woken = Event()
        self.leads: _Leader | None = None
        self.result: R
        self.error: Exception | None = None


class Batcher(Generic[T, R]):
    """One kind of work, done by whoever comes first, for those behind as well. From any thread or greenlet.

    A batch that is stuck holds up itself alone: whoever has waited behind it for `OVERTAKEN_AFTER` seconds leads the
    next one beside it, unless so many as `most_stuck` are.
    """

    def __init__(self, work: Callable[[Sequence[T]], Sequence[R]], most: int = 50, *, most_stuck: int = 3) -> None:
        """`work` does up to `most` items, all or none, and returns their results in the same order."""
        self._work = work
        self._most = most
        self._most_leaders = 1 + most_stuck
        self._guard = Lock()
        self._waiting: deque[_Place[T, R]] = deque()
        self._leaders: list[_Leader] = []

    def do(self, item: T) -> R:
        """The result for `item`.

        Raises:
            BatchFailed: it was done together with others, and failed.
            Exception: what `work` raised for this one alone.
        """
        place: _Place[T, R] = _Place(item)
        with self._guard:
            if self._has_room():
                self._appoint(place)
            else:
                self._waiting.append(place)
        try:
            if place.leads is not None:
                sleep(0)  # whoever else is there by now, and only has not had his turn, goes along
            else:
                self._await_turn(place)
        except BaseException:  # our greenlet is killed
            self._leave(place)
            raise
        if place.leads is not None:
            self._lead(place, place.leads)
        if place.error is not None:
            raise place.error
        return place.result

    def _has_room(self) -> bool:
        """Whether one more may lead. For whoever has the guard, as all that follows."""
        return len(self._leaders) < self._most_leaders and all(each.is_stuck for each in self._leaders)

    def _appoint(self, place: _Place[T, R]) -> None:
        place.leads = _Leader(monotonic())
        self._leaders.append(place.leads)

    def _hand_over(self) -> None:
        if self._waiting and self._has_room():
            following = self._waiting.popleft()
            self._appoint(following)
            following.woken.set()

    def _await_turn(self, place: _Place[T, R]) -> None:
        while not place.woken.wait(OVERTAKEN_AFTER):
            with self._guard:
                if place in self._waiting and self._has_room():
                    self._waiting.remove(place)
                    self._appoint(place)
                    return

    def _lead(self, place: _Place[T, R], leader: _Leader) -> None:
        """Do the next batch, our own item first in it, and let the next one lead."""
        with self._guard:
            others = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._most - 1))]
            leader.began_at = monotonic()
        batch = [place, *others]
        try:
            for each, result in zip(batch, self._work([each.item for each in batch]), strict=True):
                each.result = result
        except Exception as error:  # noqa: BLE001  # each of them raises it
            self._fail(batch, error)
        except BaseException:  # only our own life ends
            self._fail(batch, BatchFailed("the one who did it was killed"))
            raise
        finally:
            for each in others:
                each.woken.set()
            with self._guard:
                self._leaders.remove(leader)
                self._hand_over()

    def _leave(self, place: _Place[T, R]) -> None:
        """Wait no longer; who was to lead lets the next one."""
        with self._guard:
            if place in self._waiting:
                self._waiting.remove(place)
            elif place.leads is not None:
                self._leaders.remove(place.leads)
                self._hand_over()

    @staticmethod
    def _fail(batch: Sequence[_Place[T, R]], error: Exception) -> None:
        for place in batch:
            place.error = error
            if len(batch) > 1:
                place.error = BatchFailed(type(error).__name__)
                place.error.__cause__ = error


class NotBegun(Exception):
    """Nobody has begun with an item in time, for those before it are stuck; nothing was done for it."""


class AsyncBatcher(Generic[T, R]):
    """One kind of work, done in a thread of its own. Belongs to one event loop.

    A batch that is stuck holds up itself alone: those who wait behind it for `OVERTAKEN_AFTER` seconds are done by
    another thread, of which there are `most_stuck` and one. Who has not been begun with after `GIVEN_UP_AFTER` seconds
    is told so.
    """

    def __init__(
        self, work: Callable[[Sequence[T]], Sequence[R | Exception]], most: int = 256, *, most_stuck: int = 3
    ) -> None:
        """`work` may block. It gives a result for each of up to `most` items, in order, or what that one fails with."""
        self._work = work
        self._most = most
        self._waiting: deque[tuple[T, Future[R], float]] = deque()
        self._leaders: list[_Leader] = []
        self._most_leaders = 1 + most_stuck
        self._threads = ThreadPoolExecutor(self._most_leaders)  # never behind the handlers that fill the shared pool
        self._is_watched = False
        self.is_busy = False

    async def do(self, item: T) -> R:
        """The result for `item`, once its batch is done.

        Raises:
            NotBegun: nothing was done for it.
            Exception: what `work` gave for this item, or raised for them all.
        """
        loop = get_running_loop()
        future: Future[R] = loop.create_future()
        self._waiting.append((item, future, monotonic()))
        if not self.is_busy:
            self.is_busy = True
            loop.call_soon(self._begin, loop)
        return await future

    def _begin(self, loop: AbstractEventLoop) -> None:
        if self._waiting:
            leader = _Leader(monotonic())
            self._leaders.append(leader)
            self._threads.submit(self._lead, loop, leader)
            self._watch_from(loop)
        self.is_busy = bool(self._leaders)

    def _end(self, loop: AbstractEventLoop, leader: _Leader) -> None:
        self._leaders.remove(leader)
        if all(each.is_stuck for each in self._leaders):
            self._begin(loop)  # who came since
        self.is_busy = bool(self._leaders)

    def _watch_from(self, loop: AbstractEventLoop) -> None:
        if not self._is_watched:
            self._is_watched = True
            loop.call_later(WATCHED_EVERY, self._watch, loop)

    def _watch(self, loop: AbstractEventLoop) -> None:
        self._is_watched = False
        if not self._leaders:
            return
        while self._waiting and monotonic() - self._waiting[0][2] > GIVEN_UP_AFTER:
            with suppress(IndexError):  # a leader was quicker
                _, future, _ = self._waiting.popleft()
                if not future.done():
                    future.set_exception(NotBegun(f"not begun within {GIVEN_UP_AFTER:g} s"))
        if len(self._leaders) < self._most_leaders and all(each.is_stuck for each in self._leaders):
            self._begin(loop)
        self._watch_from(loop)

    def _lead(self, loop: AbstractEventLoop, leader: _Leader) -> None:
        """Do batch after batch without asking the loop, which may be long about what came of the one before (0005)."""
        while batch := self._next():
            leader.began_at = monotonic()
            results: Sequence[R | BaseException]
            try:
                results = self._work([item for item, _ in batch])
            except BaseException as error:  # noqa: BLE001  # each of them raises it
                results = [error] * len(batch)
            loop.call_soon_threadsafe(self._tell, [future for _, future in batch], results)
        loop.call_soon_threadsafe(self._end, loop, leader)

    def _next(self) -> list[tuple[T, Future[R]]]:
        batch: list[tuple[T, Future[R]]] = []
        with suppress(IndexError):  # that was all, or another leader has taken the rest
            while len(batch) < self._most:
                item, future, _ = self._waiting.popleft()
                batch.append((item, future))
        return batch

    @staticmethod
    def _tell(futures: Sequence[Future[R]], results: Sequence[R | BaseException]) -> None:
        for future, result in zip(futures, results, strict=True):
            if future.done():  # nobody waits any more
                continue
            if isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)
