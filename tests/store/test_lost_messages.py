"""Waiting messages are not enqueued again, however long they wait. Lost ones are, also while others wait."""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from time import monotonic

import pytest

from jobs.celery_app import create_celery
from jobs.queue_capacity import NOT_SHOWN_FOR, OUT_OF_ORDER, TO_CLAIM, LostMessages
from jobs.settings import Settings
from jobs.store.database import database_now
from jobs.store.fair_scheduler import FairScheduler, enqueued_at_of
from jobs.store.provider_limits import ProviderLimitSettings
from jobs.store.workers import register
from jobs.task_queue import TaskQueue
from tests.support.clock import Clock
from tests.support.names import NAMES, get_names
from tests.support.records import Records
from tests.support.valkey import ValkeyServer
from tests.support.waiting import await_until
from worker.maintenance import enqueuer

SECOND = timedelta(seconds=1)
SLOTS = 10


@pytest.fixture
def task_queue(records: Records, valkey: ValkeyServer) -> Iterator[TaskQueue]:
    url = records.database.url.render_as_string(hide_password=False)
    task_queue = TaskQueue(create_celery(Settings(_env_file=None, database_url=url, redis_url=valkey.url)), get_names)
    with records.database.begin() as tx:
        register(tx, "a-host", 4711, SLOTS, database_now(tx))
    yield task_queue
    task_queue.close()


@pytest.fixture
def enqueue(records: Records, task_queue: TaskQueue, clock: Clock) -> Callable[[], int]:
    """Return a function that runs the enqueuer at the clock's moment and returns the number of messages enqueued."""
    kept, provider_limit = (FairScheduler(), LostMessages()), ProviderLimitSettings("provider_limit")

    def once() -> int:
        return enqueuer.run_once(
            records.database, task_queue, *kept, provider_limit, clock(), worker_timeout=SECOND * 60
        )

    return once


def enqueued_within(enqueue: Callable[[], int], seconds: float) -> int:
    """Run the enqueuer repeatedly for some seconds; return the number of messages enqueued."""
    began_at, enqueued = monotonic(), []

    def is_over() -> bool:
        enqueued.append(enqueue())
        return monotonic() - began_at > seconds

    await_until(is_over, 10 * seconds, "time stands still")
    return sum(enqueued)


def test_a_message_that_waits_as_long_as_calls_take_is_not_enqueued_again(
    records: Records, task_queue: TaskQueue, clock: Clock, enqueue: Callable[[], int]
) -> None:
    for _ in range(5):
        records.submit_job()
        assert enqueue() == 1
        clock.advance(60 * SECOND)
    assert enqueued_within(enqueue, 1.2) == 0
    assert task_queue.depth() == 5


def test_only_the_lost_message_among_others_is_enqueued_again(
    records: Records, task_queue: TaskQueue, clock: Clock, valkey: ValkeyServer, enqueue: Callable[[], int]
) -> None:
    lost = records.submit_job()
    enqueue()
    clock.advance(10 * SECOND)
    for _ in range(3):
        records.submit_job()
        clock.advance(SECOND)
    assert enqueue() == 3
    with valkey.client() as client:
        assert client.rpop(NAMES.calls) is not None
    clock.advance(60 * SECOND)
    await_until(lambda: enqueue() == 1, 3, "it was not enqueued again")
    with records.database.read() as tx:
        assert enqueued_at_of(tx, lost.id) == clock()
    assert enqueued_within(enqueue, 1.2) == 0
    assert task_queue.depth() == 4


def test_a_job_that_is_being_claimed_is_given_time(
    records: Records, task_queue: TaskQueue, clock: Clock, valkey: ValkeyServer, enqueue: Callable[[], int]
) -> None:
    """A worker took its message from the queue a moment ago, after a long wait."""
    claimed = records.submit_job()
    enqueue()
    clock.advance(60 * SECOND)
    records.submit_job()
    enqueue()
    clock.advance(60 * SECOND)
    assert enqueued_within(enqueue, 0.8) == 0
    with valkey.client() as client:
        client.rpop(NAMES.calls)
    assert enqueue() == 0
    records.claim(claimed)
    assert enqueued_within(enqueue, 1.2) == 0


@pytest.mark.parametrize(
    "rubbish",
    [
        *(b"no JSON", b"{}", b"[1]", b'{"headers": {"id": ["a"]}}', b'{"headers": {"id": "a"}}'),
        *(b'{"headers": {"id": "a\\u0000"}}', b'{"headers": {"id": "\\ud800"}}'),  # no database stores these
    ],
)
def test_rubbish_in_the_queue_costs_nothing(
    records: Records, task_queue: TaskQueue, valkey: ValkeyServer, enqueue: Callable[[], int], rubbish: bytes
) -> None:
    records.submit_job()
    assert enqueue() == 1
    with valkey.client() as client:
        client.rpush(NAMES.calls, rubbish)
    assert enqueue() == 0
    assert task_queue.next_job_id() in ("", "a")


def test_a_message_that_has_just_left_the_queue_is_given_half_a_second(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed = {"seconds": 0.0}
    monkeypatch.setattr("jobs.queue_capacity.monotonic", lambda: passed["seconds"])
    lost, first, second, now = LostMessages(), clock(), clock() + 10 * SECOND, clock() + 60 * SECOND

    def lost_before(after: float, following: datetime | None) -> datetime:
        passed["seconds"] += after
        return lost.enqueued_before(2, now, is_shown=True, next_enqueued_at=following)

    lost_before(0, first)
    assert lost_before(0.6, second) == first - OUT_OF_ORDER
    assert lost_before(0.2, second) == first - OUT_OF_ORDER
    assert lost_before(0.1, None) == first - OUT_OF_ORDER
    assert lost_before(0.3, second) == second - OUT_OF_ORDER


def test_on_any_other_broker_a_message_counts_as_lost_after_a_time(clock: Clock) -> None:
    lost = LostMessages()
    assert lost.enqueued_before(0, clock(), is_shown=False, next_enqueued_at=None) == clock() - TO_CLAIM
    assert lost.enqueued_before(3, clock(), is_shown=False, next_enqueued_at=None) == clock() - NOT_SHOWN_FOR
