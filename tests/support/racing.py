"""Two or more connections that want the same thing at the same moment."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

T = TypeVar("T")


def race(*contenders: Callable[[], T]) -> Sequence[T]:
    """Let all contenders go at once, each on a thread of its own; what they came to, in their order."""
    start = Barrier(len(contenders))

    def run(contender: Callable[[], T]) -> T:
        start.wait()
        return contender()

    with ThreadPoolExecutor(len(contenders)) as threads:
        return list(threads.map(run, contenders))
