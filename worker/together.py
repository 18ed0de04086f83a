"""One trip to the database for all who want the same of it at the same moment."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from threading import Lock, Thread
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Together(Generic[T, R]):
    """Does for many greenlets at once what each of them asks for: while one batch is under way, the next gathers.

    Nobody waits for company: who comes alone is served at once.
    """

    def __init__(self, serve: Callable[[Sequence[T]], Sequence[R]], most: int) -> None:
        """`serve` answers up to `most` at once, in their order; what it raises, each of them gets."""
        self._serve = serve
        self._most = most
        self._guard = Lock()
        self._waiting: deque[tuple[T, Future[R]]] = deque()
        self._is_serving = False

    def __len__(self) -> int:
        """How many wait for the next batch."""
        return len(self._waiting)

    def __call__(self, item: T) -> R:
        """What came of `item`."""
        answer: Future[R] = Future()
        with self._guard:
            self._waiting.append((item, answer))
            is_first, self._is_serving = not self._is_serving, True
        if is_first:
            Thread(target=self._serve_all, daemon=True).start()
        return answer.result()

    def _serve_all(self) -> None:
        while batch := self._next_batch():
            try:
                results = self._serve([item for item, _answer in batch])
            except Exception as error:  # noqa: BLE001  # theirs to handle: each of them raises it
                for _item, answer in batch:
                    answer.set_exception(error)
            else:
                for (_item, answer), result in zip(batch, results, strict=True):
                    answer.set_result(result)

    def _next_batch(self) -> list[tuple[T, "Future[R]"]]:
        with self._guard:
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._most))]
            self._is_serving = bool(batch)
        return batch
