"""Many who ask at once are served together, and nobody waits for company."""

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from worker.together import Together


class Held:
    """Doubles numbers, but holds the first batch until it is let go; zero is what it cannot bear."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.began = threading.Event()
        self.go_on = threading.Event()

    def serve(self, items: Sequence[int]) -> Sequence[int]:
        self.batches.append(list(items))
        self.began.set()
        assert self.go_on.wait(10)
        return [1 // each and 2 * each for each in items]


def test_what_is_asked_meanwhile_is_done_together_up_to_a_bound() -> None:
    held = Held()
    together = Together(held.serve, most=3)
    with ThreadPoolExecutor(6) as threads:
        first = threads.submit(together, 1)
        assert held.began.wait(10)
        others: list[Future[int]] = [threads.submit(together, number) for number in (1, 1, 1, 1)]
        while len(together) < 4:
            threading.Event().wait(0.001)
        held.go_on.set()
        assert [each.result(10) for each in (first, *others)] == [2] * 5
    assert [len(batch) for batch in held.batches] == [1, 3, 1]


def test_who_comes_alone_is_served_alone_and_an_error_is_theirs_who_shared_it() -> None:
    held = Held()
    held.go_on.set()
    together = Together(held.serve, most=3)
    with pytest.raises(ZeroDivisionError):
        together(0)
    assert together(1) == 2
    assert held.batches == [[0], [1]]
