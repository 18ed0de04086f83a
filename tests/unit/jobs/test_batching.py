"""A single item is processed alone, many at once together, and no item fails because of another."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event, Thread

import pytest

from jobs import batching
from jobs.batching import Batcher, BatchFailed
from tests.support.waiting import await_until


class Killed(BaseException):
    """No handler may take it for a failure of the work."""


class Workshop:
    """Doubles numbers; the first batch waits for `open`, so that others can come meanwhile."""

    def __init__(self, most: int = 50) -> None:
        self.open = Event()
        self.batches: list[list[int]] = []
        self.gathering = Batcher(self.work, most)
        self.breaks: Callable[[], BaseException] | None = None

    def work(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        if len(self.batches) == 1:
            assert self.open.wait(10)
        elif self.breaks is not None and len(self.batches) == 2:
            raise self.breaks()
        return [2 * item for item in items]

    def rush(self, threads: ThreadPoolExecutor, count: int) -> list[Future[int]]:
        """One is under way when the others come."""
        futures = [threads.submit(self.gathering.do, 0)]
        await_until(lambda: self.batches, 10, "nobody was first")
        futures += [threads.submit(self.gathering.do, number) for number in range(1, count)]
        await_until(lambda: len(self.gathering._waiting) == count - 1, 10, "not everybody waits")
        self.open.set()
        return futures


def test_one_who_comes_alone_is_served_alone() -> None:
    shop = Workshop()
    shop.open.set()
    assert [shop.gathering.do(1), shop.gathering.do(2)] == [2, 4]
    assert shop.batches == [[1], [2]]


def test_those_who_come_meanwhile_are_served_together() -> None:
    shop = Workshop()
    with ThreadPoolExecutor(20) as threads:
        futures = shop.rush(threads, 20)
        assert [each.result(10) for each in futures] == [2 * number for number in range(20)]
    assert [sorted(batch) for batch in shop.batches] == [[0], list(range(1, 20))]


def test_no_batch_is_larger_than_it_may_be() -> None:
    shop = Workshop(most=4)
    with ThreadPoolExecutor(10) as threads:
        futures = shop.rush(threads, 10)
        assert [each.result(10) for each in futures] == [2 * number for number in range(10)]
    assert [len(batch) for batch in shop.batches] == [1, 4, 4, 1]


def test_a_failure_alone_is_raised_as_it_is() -> None:
    def refuse(_items: Sequence[int]) -> list[int]:
        raise ValueError("no")

    batching = Batcher(refuse)
    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            batching.do(1)


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (ValueError("no"), [BatchFailed] * 4),
        (Killed(), [*[BatchFailed] * 3, Killed]),  # who led it dies, the others only hear that it failed
    ],
)
def test_a_batch_that_fails_tells_each_of_it_and_hinders_nobody_after_it(
    error: BaseException, raised: list[type[BaseException]]
) -> None:
    shop = Workshop()
    shop.breaks = lambda: error
    with ThreadPoolExecutor(5) as threads:
        first, *others = shop.rush(threads, 5)
        assert first.result(10) == 0
        assert sorted(type(each.exception(10)).__name__ for each in others) == [each.__name__ for each in raised]
        assert shop.gathering.do(7) == 14


def test_one_who_is_killed_when_it_was_to_lead_leaves_that_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[Event] = []

    class Fatal(Event):
        def wait(self, timeout: float | None = None) -> bool:
            waited.append(self)
            is_set = super().wait(timeout)
            if self is waited[0]:
                raise Killed
            return is_set

    shop = Workshop()
    with monkeypatch.context() as patched:
        patched.setattr(batching, "Event", Fatal)
        with ThreadPoolExecutor(5) as threads:
            first, *others = shop.rush(threads, 5)
            assert first.result(10) == 0
            errors = [each.exception(10) for each in others]
            assert sorted(type(each).__name__ for each in errors) == ["Killed", *["NoneType"] * 3]
    assert shop.gathering.do(7) == 14


def test_so_does_one_who_is_killed_while_others_have_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(_seconds: float) -> None:
        raise Killed

    shop = Workshop()
    shop.open.set()
    with monkeypatch.context() as patched:
        patched.setattr(batching, "sleep", kill)
        with pytest.raises(Killed):
            shop.gathering.do(1)
    following = Thread(target=shop.gathering.do, args=(7,), daemon=True)
    following.start()
    following.join(10)
    assert shop.batches == [[7]]
