"""Many concurrent waits, and ends without a notification. Redis only makes waits shorter."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest
from redis.asyncio.client import PubSub

from jobs import notifications
from tests.api.world import FakeWorker, Json, Server, Tenant, a_tenant, serve, settings_for
from tests.support.names import NAMES
from tests.support.valkey import ValkeyServer
from tests.support.waiting import await_until

pytestmark = pytest.mark.one_database

WAITERS = 200
REQUEST_THREADS = 40  # Starlette's number of threads for synchronous handlers


def waiters_of(server: Server, job_id: str) -> int:
    return len(server.state.listener._waiting.get(job_id, ()))


async def wait_all(server: Server, tenant: Tenant, job_id: str) -> list[httpx.Response]:
    headers = {"authorization": f"Bearer {tenant.secret}"}
    limits = httpx.Limits(max_connections=WAITERS)
    async with httpx.AsyncClient(headers=headers, timeout=60, limits=limits, trust_env=False) as client:
        url = f"{server.url}/v1/responses/{job_id}?wait=60"
        return await asyncio.gather(*(client.get(url) for _ in range(WAITERS)))


def test_two_hundred_requests_wait_without_a_thread_each_and_all_are_answered(
    server: Server, tenant: Tenant, worker: FakeWorker
) -> None:
    job_id = tenant.submit()["id"]
    before = threading.active_count()
    with ThreadPoolExecutor(1) as pool:
        answers = pool.submit(asyncio.run, wait_all(server, tenant, job_id))
        await_until(lambda: waiters_of(server, job_id) == WAITERS, 30, "not all wait")
        assert threading.active_count() <= before + REQUEST_THREADS + 1
        assert tenant.get(job_id)["status"] == "queued"  # others are still served
        worker.complete(job_id)
        ended_at = time.monotonic()
        found = answers.result(30)
    assert time.monotonic() - ended_at < 10
    assert {(each.status_code, each.json()["status"]) for each in found} == {(200, "completed")}
    await_until(lambda: not server.waiting(job_id), 2, "places are still taken")


@contextmanager
def waiting(server: Server, tenant: Tenant) -> Iterator[tuple[str, Future[Json]]]:
    job_id = tenant.submit()["id"]
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(tenant.get, job_id, wait=60)
        await_until(lambda: server.waiting(job_id), 10, "the request does not wait")
        yield job_id, answer


@pytest.fixture
def alone(shared_database_url: str, valkey: ValkeyServer) -> Iterator[tuple[Server, Tenant]]:
    """An API with its own Valkey, and one of its tenants."""
    with serve(settings_for(shared_database_url, valkey.url)) as server, a_tenant(server) as tenant:
        yield server, tenant


def listeners(valkey: ValkeyServer) -> int:
    with valkey.client() as client:
        ((_, count),) = client.pubsub_numsub("backburner:ended")
        return int(count)


def flush(valkey: ValkeyServer) -> None:
    valkey.flush()


def restart(valkey: ValkeyServer) -> None:
    valkey.restart()
    await_until(lambda: listeners(valkey) == 1, 10, "the API never listened again")


@pytest.mark.parametrize("mishap", [flush, restart])
def test_an_end_after_a_redis_failure_is_notified_as_usual(
    alone: tuple[Server, Tenant], valkey: ValkeyServer, mishap: Callable[[ValkeyServer], None]
) -> None:
    server, tenant = alone
    with waiting(server, tenant) as (job_id, answer):
        mishap(valkey)
        FakeWorker(server).complete(job_id)
        assert answer.result(2)["status"] == "completed"


def test_an_end_while_redis_restarts_is_seen_once_it_is_back(
    alone: tuple[Server, Tenant], valkey: ValkeyServer
) -> None:
    server, tenant = alone
    with waiting(server, tenant) as (job_id, answer):
        valkey.stop()
        FakeWorker(server).complete(job_id, announce=False)
        valkey.start()
        assert answer.result(6)["status"] == "completed"


@pytest.mark.parametrize("mishap", ["nobody announces it", "redis is gone", "redis is silent"])
def test_an_end_without_a_notification_is_seen_within_seconds(
    alone: tuple[Server, Tenant], valkey: ValkeyServer, mishap: str
) -> None:
    server, tenant = alone
    with waiting(server, tenant) as (job_id, answer):
        if mishap == "redis is gone":
            valkey.stop()
        elif mishap == "redis is silent":
            valkey.freeze()
        FakeWorker(server).complete(job_id, announce=False)
        assert answer.result(6.5)["status"] == "completed"
        if mishap == "redis is silent":
            valkey.thaw()


def subscribers(valkey: ValkeyServer, job_id: str) -> int:
    with valkey.client() as client:
        ((_, count),) = client.pubsub_numsub(NAMES.of_job(job_id))
        return int(count)


def test_a_process_subscribes_to_a_response_only_during_a_wait(
    alone: tuple[Server, Tenant], valkey: ValkeyServer
) -> None:
    server, tenant = alone
    others = tenant.submit()["id"]
    with waiting(server, tenant) as (job_id, answer):
        await_until(lambda: subscribers(valkey, job_id) == 1, 5, "it is not subscribed")
        assert subscribers(valkey, others) == 0
        FakeWorker(server).complete(job_id)
        assert answer.result(2)["status"] == "completed"
    await_until(lambda: subscribers(valkey, job_id) == 0, 5, "it is still subscribed")


@pytest.fixture
def without_periodic_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turn off the periodic check of rows."""
    monkeypatch.setattr(notifications, "READ_EVERY", 3600.0)


@pytest.mark.usefixtures("without_periodic_checks")
def test_an_end_just_before_the_subscription_is_seen_at_once(
    alone: tuple[Server, Tenant], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait read the row before the end, and the notification is not repeated."""
    server, tenant = alone
    job_id = tenant.submit()["id"]
    subscribe = PubSub.subscribe

    def sleeps() -> bool:
        return any(each._event._waiters for each in server.state.listener._waiting.get(job_id, ()))

    async def late(self: PubSub, *channels: str) -> None:
        if NAMES.of_job(job_id) in channels:
            await asyncio.to_thread(await_until, sleeps, 10, "the request does not wait")
            await asyncio.to_thread(FakeWorker(server).complete, job_id)
        await subscribe(self, *channels)

    monkeypatch.setattr(PubSub, "subscribe", late)
    assert tenant.get(job_id, wait=15)["status"] == "completed"


@pytest.mark.usefixtures("without_periodic_checks")
def test_a_notification_from_a_worker_of_the_previous_release_is_received(
    alone: tuple[Server, Tenant], valkey: ValkeyServer
) -> None:
    server, tenant = alone
    with waiting(server, tenant) as (job_id, answer), valkey.client() as client:
        await_until(lambda: subscribers(valkey, job_id) == 1, 5, "it is not subscribed")
        FakeWorker(server).complete(job_id, announce=False)
        assert client.publish(NAMES.ended, job_id) == 1
        assert answer.result(15)["status"] == "completed"


@pytest.mark.parametrize("channel", [NAMES.ended, NAMES.wrote])
def test_invalid_messages_on_the_channel_do_not_delay_waits(
    alone: tuple[Server, Tenant], valkey: ValkeyServer, channel: str
) -> None:
    server, tenant = alone
    with waiting(server, tenant) as (job_id, answer), valkey.client() as client:
        for rubbish in (b"\xff\xfe", b"", b"\x00", b"resp_1" * 1_000_000):
            assert client.publish(channel, rubbish) == 1, "the API no longer listens"
        FakeWorker(server).complete(job_id)
        assert answer.result(2)["status"] == "completed"
    assert listeners(valkey) == 1
