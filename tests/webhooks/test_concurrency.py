"""Deliveries per target: the slots that a target gets, and the deliveries that wait for one."""

from jobs.store.webhooks.scheduler import MOST_PER_TARGET
from jobs.webhooks.protocol import DeliveryError
from worker.webhooks.concurrency import WAITING_PER_TARGET, Backlog, TargetLimits


def test_a_hanging_target_gets_one_slot_and_a_working_one_gets_more_and_more() -> None:
    widths = TargetLimits()

    def slots(target: str) -> int:
        taken = [target for _ in range(MOST_PER_TARGET + 1) if widths.take(target)]
        for each in taken:
            widths.give_back(each)
        return len(taken)

    assert slots("new") == 2
    for expected in (3, 4, 5):
        widths.learn("good", None)
        assert slots("good") == expected
    for _ in range(MOST_PER_TARGET):
        widths.learn("good", None)
    assert slots("good") == MOST_PER_TARGET
    widths.learn("good", DeliveryError.HTTP_ERROR)
    assert slots("good") == MOST_PER_TARGET
    widths.learn("good", DeliveryError.TIMED_OUT)
    assert slots("good") == 1


def test_deliveries_without_a_slot_wait_in_order_up_to_a_bound() -> None:
    backlog = Backlog()
    backlog.add("busy", ["first", "second"])
    backlog.add("busy", ["second", "third"])
    assert [backlog.take("busy") for _ in range(4)] == ["first", "second", "third", None]
    assert backlog.take("other") is None
    many = [str(number) for number in range(WAITING_PER_TARGET + 1)]
    backlog.add("busy", many)
    assert [backlog.take("busy") for _ in many] == [*many[:-1], None]
    backlog.add("busy", many)
    backlog.forget("busy")
    assert backlog.take("busy") is None
