"""Deliveries are enqueued at once, but not so many of one key that those of others would wait behind them."""

from collections.abc import Iterator

import pytest

from jobs.celery_app import create_celery
from jobs.job import WebhookTarget
from jobs.lifecycle import Verb
from jobs.settings import Settings
from jobs.store.api_keys import ApiKey
from jobs.task_queue import TaskQueue
from jobs.webhooks.enqueue import LIMIT_PER_SECOND, PER_KEY_ABOVE_LIMIT, DeliveryEnqueuer
from tests.support.names import get_names
from tests.support.records import Records, make_key, pending_deliveries
from tests.support.valkey import ValkeyServer


@pytest.fixture
def task_queue(database_url: str, valkey: ValkeyServer) -> Iterator[TaskQueue]:
    settings = Settings(_env_file=None, database_url=database_url, redis_url=valkey.url)
    task_queue = TaskQueue(create_celery(settings), get_names)
    yield task_queue
    task_queue.close()


def end(records: Records, key: ApiKey, number: int) -> str:
    """End a job with a webhook, and return the id of its delivery."""
    target = WebhookTarget("https://example.com/", f"{key.id} https://{number}", ("response.cancelled",), None)
    job = records.move(Verb.CANCEL, records.submit_job(key, webhook=target))
    with records.database.read() as tx:
        [delivery_id] = pending_deliveries(tx, job.id)
    return delivery_id


def test_a_rush_of_one_key_does_not_fill_the_queue_before_another_key(
    records: Records, task_queue: TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.webhooks.enqueue.monotonic", lambda: 1.0)  # all within a second
    enqueuer = DeliveryEnqueuer(records.database, task_queue)
    other = make_key(records.database, "other")
    rush = [end(records, records.key, number) for number in range(LIMIT_PER_SECOND // 2)]
    for _ in range(4):  # a few at a time, then many at once
        enqueuer.enqueue(rush)
    enqueuer.enqueue([*rush, *rush])
    assert task_queue.delivery_depth() == LIMIT_PER_SECOND + PER_KEY_ABOVE_LIMIT
    enqueuer.enqueue([end(records, other, number) for number in range(3)])
    assert task_queue.delivery_depth() == LIMIT_PER_SECOND + PER_KEY_ABOVE_LIMIT + 3
    monkeypatch.setattr("jobs.webhooks.enqueue.monotonic", lambda: 2.0)
    enqueuer.enqueue(rush)
    assert task_queue.delivery_depth() == LIMIT_PER_SECOND + PER_KEY_ABOVE_LIMIT + 3 + LIMIT_PER_SECOND // 2
