"""The consumer polls only for as long as no free slot has to wait for it, and no shutdown."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from celery.worker import state

from tests.support.names import NAMES
from tests.support.waiting import await_until
from worker.celery_adapter import consumer
from worker.celery_adapter.consumer import POLL_SECONDS, SHORTEST_POLL_SECONDS, FreeSlots
from worker.celery_adapter.subscribed_queues import SubscribedQueues


def free_slots() -> FreeSlots:
    return FreeSlots(SubscribedQueues(NAMES), lambda: None)


def poll(timeout: float) -> float:
    return timeout


def test_with_a_free_slot_it_polls_no_longer_than_asked_for() -> None:
    assert free_slots().polling(poll, lambda: False)(timeout=2.0) == POLL_SECONDS
    assert free_slots().polling(poll, lambda: False)(timeout=0.1) == 0.1


@pytest.mark.parametrize("is_full", [False, True])
def test_a_consumer_that_should_stop_polls_no_longer(monkeypatch: pytest.MonkeyPatch, *, is_full: bool) -> None:
    monkeypatch.setattr(state, "should_stop", 0)
    assert free_slots().polling(poll, lambda: is_full)(timeout=2.0) == SHORTEST_POLL_SECONDS


def test_without_a_free_slot_it_still_polls_for_other_news(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer, "POLL_SECONDS", 0.01)
    assert free_slots().polling(poll, lambda: True)(timeout=2.0) == SHORTEST_POLL_SECONDS


def test_a_slot_that_comes_free_is_filled_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer, "POLL_SECONDS", 60)
    slots, looks, full = free_slots(), [0], [True]

    def is_full() -> bool:
        looks[0] += 1
        return full[0]

    with ThreadPoolExecutor(1) as threads:
        polling = threads.submit(slots.polling(poll, is_full), timeout=2.0)
        await_until(lambda: looks[0], 10, "it never looked")
        full[0] = False
        slots.freed()
        assert polling.result(10) == 2.0
