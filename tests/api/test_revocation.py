"""A revoked key reads nothing more. Its open requests end within seconds, in every process, without an answer."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import openai
import pytest
from openai import OpenAI

import api.routes.responses
from jobs.lifecycle import Status
from jobs.notifications import READ_EVERY
from jobs.store.api_keys import revoke_key
from tests.api.watching import EventWriter, watchers, watching
from tests.api.world import MODEL, TEXT, FakeWorker, Server, Tenant, assert_error, serve
from tests.support.waiting import await_until

pytestmark = pytest.mark.one_database

WITHIN_SECONDS = 5.0


@pytest.fixture(params=["received", "by the rows alone"])
def revoke(request: pytest.FixtureRequest, server: Server, tenant: Tenant) -> Any:
    """Revoke the tenant's key, as an operator's command does, with or without a notification over Redis."""

    def act() -> float:
        with server.database.begin() as tx:
            revoke_key(tx, tenant.id, datetime.now(UTC))
        if request.param == "received":
            server.state.notifier.revoked(tenant.id)
        return time.monotonic()

    return act


@pytest.fixture
def patient(server: Server, tenant: Tenant) -> Iterator[OpenAI]:
    """The SDK with its default retries."""
    with OpenAI(base_url=f"{server.url}/v1", api_key=tenant.secret) as client:
        yield client


def test_a_wait_ends_with_the_sdks_authentication_error(
    server: Server, tenant: Tenant, patient: OpenAI, worker: FakeWorker, revoke: Any
) -> None:
    job_id = tenant.submit()["id"]
    with ThreadPoolExecutor(1) as pool:
        waiter = pool.submit(patient.responses.retrieve, job_id, extra_query={"wait": 60})
        await_until(lambda: server.waiting(job_id), 5, "nobody waits")
        since = revoke()
        with pytest.raises(openai.AuthenticationError) as refused:
            waiter.result(WITHIN_SECONDS)
    assert time.monotonic() - since < WITHIN_SECONDS
    assert refused.value.code == "invalid_api_key"
    assert worker.complete(job_id).status is Status.COMPLETED, "its jobs do not go on"


def test_a_held_create_ends_with_the_sdks_authentication_error(
    server: Server, tenant: Tenant, patient: OpenAI, worker: FakeWorker, revoke: Any
) -> None:
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(patient.responses.create, model=MODEL, input="Hello")
        job_id = tenant.only_id()
        await_until(lambda: server.waiting(job_id), 5, "nobody waits")
        revoke()
        with pytest.raises(openai.AuthenticationError):
            answer.result(WITHIN_SECONDS)
    assert worker.complete(job_id).status is Status.COMPLETED


def test_a_held_answer_that_has_begun_ends_as_a_failed_response(
    server: Server, tenant: Tenant, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch, revoke: Any
) -> None:
    monkeypatch.setattr(api.routes.responses, "HEADERS_HELD_SECONDS", 0.1)
    with tenant.http.stream("POST", "/v1/responses", json={"model": MODEL, "input": "Hello"}) as answer:
        assert answer.status_code == 200
        job_id = answer.headers["openai-response-id"]
        worker.claim(job_id)
        since = revoke()
        received = json.loads("".join(answer.iter_text()))
    assert time.monotonic() - since < WITHIN_SECONDS
    assert (received["id"], received["status"], received["output"]) == (job_id, "failed", [])
    assert received["error"]["code"] == "invalid_api_key"


def test_a_stream_ends_with_an_error_event(
    server: Server, tenant: Tenant, patient: OpenAI, worker: FakeWorker, revoke: Any
) -> None:
    job_id = tenant.submit()["id"]
    teller = EventWriter(server, worker, job_id)
    teller.begin()
    with watching(server, tenant, job_id) as raw, patient.responses.retrieve(job_id, stream=True) as events:
        assert next(iter(events)).type == "response.created"
        await_until(lambda: watchers(server, job_id) == 2, 5, "they do not watch")
        since = revoke()
        with pytest.raises(openai.APIError) as received:
            for _ in events:
                pass
        last = raw.result(WITHIN_SECONDS)[-1]
    assert time.monotonic() - since < WITHIN_SECONDS
    assert received.value.code == "invalid_api_key"
    assert (last["type"], last["code"]) == ("error", "invalid_api_key")
    assert (last["error"]["type"], last["error"]["code"]) == ("authentication_error", "invalid_api_key")


def test_no_answer_is_shown_that_comes_right_after_the_revocation(
    server: Server, tenant: Tenant, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No process has noticed the revocation yet. Each answer is checked just before it is sent."""
    monkeypatch.setattr(server.state.key_watch, "_valid_among", lambda digests: digests)  # the process never notices
    waited, watched = tenant.submit()["id"], tenant.submit()["id"]
    teller = EventWriter(server, worker, watched)
    teller.begin()
    with ThreadPoolExecutor(1) as pool, watching(server, tenant, watched) as events:
        waiter = pool.submit(tenant.http.get, f"/v1/responses/{waited}?wait=60")
        await_until(lambda: server.waiting(waited), 5, "nobody waits")
        with server.database.begin() as tx:
            revoke_key(tx, tenant.id, datetime.now(UTC))
        teller.text(TEXT)
        worker.complete(waited)
        assert_error(waiter.result(READ_EVERY), 401, type_="authentication_error", code="invalid_api_key")
        received = events.result(READ_EVERY)
    assert received[-1]["code"] == "invalid_api_key"
    assert TEXT not in json.dumps(received)


def test_every_process_ends_what_it_holds(server: Server, tenant: Tenant, worker: FakeWorker, revoke: Any) -> None:
    job_id = tenant.submit()["id"]
    with serve(server.settings) as second, second.client(tenant.secret) as http, ThreadPoolExecutor(2) as pool:
        listener = [pool.submit(each.get, f"/v1/responses/{job_id}?wait=60") for each in (tenant.http, http)]
        await_until(lambda: server.waiting(job_id) and second.waiting(job_id), 5, "they do not wait")
        revoke()
        assert [each.result(WITHIN_SECONDS).status_code for each in listener] == [401, 401]


def test_requests_of_other_keys_go_on(
    server: Server, tenant: Tenant, other: Tenant, worker: FakeWorker, revoke: Any
) -> None:
    job_id, others_id = tenant.submit()["id"], other.submit()["id"]
    with ThreadPoolExecutor(2) as pool:
        mine = pool.submit(tenant.http.get, f"/v1/responses/{job_id}?wait=60")
        others = pool.submit(other.http.get, f"/v1/responses/{others_id}?wait=60")
        await_until(lambda: server.waiting(job_id) and server.waiting(others_id), 5, "they do not wait")
        revoke()
        assert mine.result(WITHIN_SECONDS).status_code == 401
        assert not others.done()
        worker.complete(others_id)
        assert others.result(5).json()["status"] == "completed"


def test_one_query_checks_the_keys_of_many_watchers(server: Server, tenant: Tenant, other: Tenant) -> None:
    asked: list[int] = []
    look = server.state.key_watch._valid_among

    def counting(digests: set[str]) -> set[str]:
        asked.append(len(digests))
        return look(digests)

    server.state.key_watch._valid_among = counting  # type: ignore[method-assign]
    ids = [each.submit()["id"] for each in (tenant, other) for _ in range(10)]
    try:
        with ThreadPoolExecutor(len(ids)) as pool:
            owners = [tenant] * 10 + [other] * 10
            waits = [
                pool.submit(owner.http.get, f"/v1/responses/{each}?wait=3")
                for owner, each in zip(owners, ids, strict=True)
            ]
            assert all(each.result(10).status_code == 200 for each in waits)
    finally:
        server.state.key_watch._valid_among = look  # type: ignore[method-assign]
    assert 1 <= len([each for each in asked if each == 2]) <= 3
    assert not server.state.key_watch._watched
