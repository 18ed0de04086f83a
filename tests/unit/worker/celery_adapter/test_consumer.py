"""The consumer of bells listens only as long as that keeps no slot empty, and nobody waiting for its end."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from celery.worker import state

from tests.support.names import NAMES
from tests.support.waiting import await_until
from worker.celery_adapter import consumer
from worker.celery_adapter.consumer import LOOK_SECONDS, TURN_SECONDS, FreeSlots
from worker.celery_adapter.subscribed_queues import SubscribedQueues


def free_slots() -> FreeSlots:
    return FreeSlots(SubscribedQueues(NAMES), lambda: None)


def listen(timeout: float) -> float:
    return timeout


def test_with_a_free_slot_it_listens_no_longer_than_it_is_told() -> None:
    assert free_slots().listening(listen, lambda: False)(timeout=2.0) == TURN_SECONDS
    assert free_slots().listening(listen, lambda: False)(timeout=0.1) == 0.1


@pytest.mark.parametrize("is_full", [False, True])
def test_one_that_is_to_stop_listens_no_more(monkeypatch: pytest.MonkeyPatch, *, is_full: bool) -> None:
    monkeypatch.setattr(state, "should_stop", 0)
    assert free_slots().listening(listen, lambda: is_full)(timeout=2.0) == LOOK_SECONDS


def test_without_one_it_hears_in_between_what_else_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer, "TURN_SECONDS", 0.01)
    assert free_slots().listening(listen, lambda: True)(timeout=2.0) == LOOK_SECONDS


def test_a_slot_that_comes_free_is_filled_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer, "TURN_SECONDS", 60)
    slots, looks, full = free_slots(), [0], [True]

    def is_full() -> bool:
        looks[0] += 1
        return full[0]

    with ThreadPoolExecutor(1) as threads:
        listening = threads.submit(slots.listening(listen, is_full), timeout=2.0)
        await_until(lambda: looks[0], 10, "it never looked")
        full[0] = False
        slots.freed()
        assert listening.result(10) == 2.0
