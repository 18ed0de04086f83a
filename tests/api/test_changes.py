"""Cancel, retry and delete a response."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import redis

from jobs.errors import ErrorKind, Failure, JobNotFound, StaleJob
from jobs.lifecycle import OPEN, TERMINAL, Status
from jobs.store.attempts import attempts_of
from jobs.store.responses import get_request
from tests.api.world import COST_MICROUSD, MODEL, TEXT, FakeWorker, Server, Tenant, assert_error
from tests.support.waiting import await_until

REVIVABLE = [Status.FAILED, Status.CANCELLED]


@contextmanager
def stop_channel(server: Server) -> Iterator[Any]:
    """Collect the notifications that tell workers to cancel a call."""
    with redis.Redis.from_url(server.settings.redis) as client, client.pubsub() as listener:
        listener.subscribe("backburner:stop")
        assert listener.get_message(timeout=5)["type"] == "subscribe"
        yield listener


def held_id(server: Server, tenant: Tenant) -> str:
    """Submit a response without `background`, then disconnect."""
    with ThreadPoolExecutor(1) as pool:
        leaving = pool.submit(_leave, tenant)
        job_id = tenant.only_id()
        leaving.result()
    await_until(lambda: not server.waiting(job_id), 5, "its client is still there")
    return job_id


def _leave(tenant: Tenant) -> None:
    with pytest.raises(httpx.ReadTimeout):
        tenant.http.post("/v1/responses", json={"model": MODEL, "input": "x"}, timeout=httpx.Timeout(5, read=0.2))


@pytest.mark.parametrize("status", sorted(OPEN))
@pytest.mark.parametrize("background", [True, False])
def test_cancel_ends_an_open_response_at_once(
    server: Server, tenant: Tenant, worker: FakeWorker, status: Status, background: bool
) -> None:
    job_id = tenant.submit()["id"] if background else held_id(server, tenant)
    worker.bring_to(status, job_id)
    answer = tenant.http.post(f"/v1/responses/{job_id}/cancel")
    body = answer.json()
    assert (answer.status_code, body["status"], body["id"]) == (200, "cancelled", job_id)
    assert body["completed_at"] is not None
    assert "retry-after" not in answer.headers
    assert body == tenant.get(job_id)
    assert answer.headers["etag"] == tenant.http.get(f"/v1/responses/{job_id}").headers["etag"]


@pytest.mark.parametrize("status", sorted(TERMINAL))
def test_cancel_returns_a_finished_background_response_unchanged(
    tenant: Tenant, worker: FakeWorker, status: Status
) -> None:
    job_id = tenant.submit()["id"]
    worker.bring_to(status, job_id)
    before = tenant.get(job_id)
    for _ in range(2):
        answer = tenant.http.post(f"/v1/responses/{job_id}/cancel")
        assert (answer.status_code, answer.json()) == (200, before)


@pytest.mark.parametrize("status", sorted(TERMINAL))
def test_cancel_of_a_finished_held_response_is_a_bad_request(
    server: Server, tenant: Tenant, worker: FakeWorker, status: Status
) -> None:
    job_id = held_id(server, tenant)
    worker.bring_to(status, job_id)
    before = tenant.get(job_id)
    answer = tenant.http.post(f"/v1/responses/{job_id}/cancel")
    assert status in assert_error(answer, 400, param="response_id")
    assert tenant.get(job_id) == before


def test_cancel_notifies_the_worker_that_runs_the_call(server: Server, tenant: Tenant, worker: FakeWorker) -> None:
    job_id = tenant.submit()["id"]
    worker.claim(job_id)
    with stop_channel(server) as listener:
        tenant.http.post(f"/v1/responses/{job_id}/cancel")
        assert listener.get_message(timeout=5)["data"] == f"{job_id} 1 cancelled".encode()


def test_cancel_accepts_any_body_or_none(tenant: Tenant) -> None:
    for content in (b"", b"{}", b"not json", b"x" * 1_000_000):
        job_id = tenant.submit()["id"]
        answer = tenant.http.post(
            f"/v1/responses/{job_id}/cancel", content=content, headers={"content-type": "application/json"}
        )
        assert answer.json()["status"] == "cancelled"


def test_a_cancel_that_races_a_completion_returns_the_final_status(tenant: Tenant, worker: FakeWorker) -> None:
    for _ in range(20):
        job_id = tenant.submit()["id"]
        worker.claim(job_id)
        start = threading.Barrier(2)

        def completing(job_id: str = job_id, start: threading.Barrier = start) -> bool:
            start.wait()
            try:
                worker.complete(job_id)
            except StaleJob:
                return False
            return True

        with ThreadPoolExecutor(1) as pool:
            completion = pool.submit(completing)
            start.wait()
            answer = tenant.http.post(f"/v1/responses/{job_id}/cancel")
            won = completion.result()
        assert answer.status_code == 200
        assert answer.json()["status"] == ("completed" if won else "cancelled")
        assert tenant.get(job_id) == answer.json()


@pytest.mark.parametrize("status", REVIVABLE)
def test_retry_runs_it_again_under_the_same_id(tenant: Tenant, worker: FakeWorker, status: Status) -> None:
    job_id = tenant.submit(metadata={"ticket": "4711"}, deadline_seconds=600)["id"]
    worker.claim(job_id)
    worker.bring_to(status, job_id)
    answer = tenant.http.post(f"/v1/responses/{job_id}/retry")
    body = answer.json()
    assert (answer.status_code, body["id"], body["status"]) == (200, job_id, "queued")
    assert (body["completed_at"], body["error"], body["backburner"]["error"]) == (None, None, None)
    assert body["metadata"] == {"ticket": "4711"}
    assert body["backburner"]["queue_position"] == 1
    assert 599 < (worker.job(job_id).deadline_at.timestamp() - time.time()) <= 600
    worker.complete(job_id)
    assert tenant.get(job_id)["backburner"]["attempt"] == 2
    attempts = tenant.http.get(f"/v1/responses/{job_id}/attempts").json()["data"]
    assert [each["number"] for each in attempts] == [1, 2]


def test_retry_uses_the_deadline_of_the_settings_if_the_request_had_none(tenant: Tenant, worker: FakeWorker) -> None:
    job_id = tenant.submit()["id"]
    worker.bring_to(Status.FAILED, job_id)
    tenant.http.post(f"/v1/responses/{job_id}/retry")
    assert 86_390 < worker.job(job_id).deadline_at.timestamp() - time.time() <= 86_400


def test_retry_clears_the_error_of_the_failed_attempt(tenant: Tenant, worker: FakeWorker) -> None:
    job_id = tenant.submit()["id"]
    worker.fail(job_id, Failure(ErrorKind.EMPTY_OUTPUT, "Nothing came.", 200))
    tenant.http.post(f"/v1/responses/{job_id}/retry")
    worker.complete(job_id)
    body = tenant.get(job_id)
    assert (body["status"], body["error"], body["output"][0]["content"][0]["text"]) == ("completed", None, TEXT)


@pytest.mark.parametrize("status", [each for each in Status if each not in REVIVABLE])
def test_retry_of_anything_else_is_a_bad_request(tenant: Tenant, worker: FakeWorker, status: Status) -> None:
    job_id = tenant.submit()["id"]
    worker.bring_to(status, job_id)
    before = tenant.get(job_id)
    answer = tenant.http.post(f"/v1/responses/{job_id}/retry")
    assert status in assert_error(answer, 400, param="response_id")
    assert tenant.get(job_id) == before


@pytest.mark.parametrize("status", Status)
def test_delete_erases_a_response_of_any_status(
    server: Server, tenant: Tenant, worker: FakeWorker, status: Status
) -> None:
    job_id = tenant.submit("a secret prompt", metadata={"ticket": "4711"})["id"]
    worker.bring_to(status, job_id)
    answer = tenant.http.delete(f"/v1/responses/{job_id}")
    assert (answer.status_code, answer.json()) == (200, {"id": job_id, "object": "response", "deleted": True})
    for method, path in (("GET", ""), ("GET", "/attempts"), ("POST", "/cancel"), ("POST", "/retry"), ("DELETE", "")):
        gone = tenant.http.request(method, f"/v1/responses/{job_id}{path}")
        assert_error(gone, 404, param="response_id")
    assert tenant.ids() == tenant.ids(**{"metadata[ticket]": "4711"}) == []
    with server.database.read() as tx, pytest.raises(JobNotFound):
        get_request(tx, job_id)


def test_delete_keeps_usage_and_no_text(server: Server, tenant: Tenant, worker: FakeWorker) -> None:
    done, failed = tenant.submit()["id"], tenant.submit()["id"]
    worker.complete(done)
    worker.bring_to(Status.FAILED, failed)
    before = tenant.http.get("/v1/usage").json()
    for job_id in (done, failed):
        tenant.http.delete(f"/v1/responses/{job_id}")
    assert tenant.http.get("/v1/usage").json() == before
    assert before["data"][0]["calls"] == 2
    assert before["data"][0]["cost_usd"] == COST_MICROUSD / 1e6
    with server.database.read() as tx:
        assert [each.error_message for each in attempts_of(tx, failed)] == [None]


def test_delete_of_a_running_response_notifies_its_worker_and_its_waiters(
    server: Server, tenant: Tenant, worker: FakeWorker
) -> None:
    job_id = tenant.submit()["id"]
    worker.claim(job_id)
    with stop_channel(server) as listener, ThreadPoolExecutor(1) as pool:
        waiter = pool.submit(tenant.http.get, f"/v1/responses/{job_id}?wait=60")
        await_until(lambda: server.waiting(job_id), 5, "nobody waits")
        tenant.http.delete(f"/v1/responses/{job_id}")
        assert listener.get_message(timeout=5)["data"] == f"{job_id} 1 cancelled".encode()
        assert waiter.result(5).status_code in {200, 404}  # the cancel or the erasure, whichever it saw


def test_of_two_concurrent_deletes_one_succeeds_and_one_gets_404(tenant: Tenant) -> None:
    for _ in range(10):
        job_id = tenant.submit()["id"]
        with ThreadPoolExecutor(2) as pool:
            delete: Callable[[str], httpx.Response] = tenant.http.delete
            answers = list(pool.map(delete, [f"/v1/responses/{job_id}"] * 2))
        assert sorted(each.status_code for each in answers) == [200, 404]
