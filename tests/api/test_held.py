"""Without `background` the connection stays open until the job ends. The job is as durable as in the background."""

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from threading import Event
from typing import Any

import httpx
import pytest
from openai import DefaultHttpxClient, OpenAI

import api.held_response
import api.routes.responses
from api.errors import FAILED_RESPONSES
from jobs.errors import ERROR_CODES, ErrorKind, Failure
from jobs.lifecycle import Status
from tests.api.world import MODEL, TEXT, FakeWorker, Server, Tenant, a_tenant, assert_error, serve, usage_json
from tests.support.waiting import await_until

pytestmark = pytest.mark.one_database


@contextmanager
def held(tenant: Tenant, **fields: Any) -> Iterator[tuple[str, Future[httpx.Response]]]:
    """Send a request that waits for its answer. Yield the response's id and the future answer."""
    body = {"model": MODEL, "input": "Hello", **fields}
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(tenant.http.post, "/v1/responses", json=body)
        yield tenant.only_id(), answer


@contextmanager
def held_by_socket(server: Server, tenant: Tenant) -> Iterator[tuple[str, socket.socket]]:
    """Do the same over a socket that the test can close."""
    body = json.dumps({"model": MODEL, "input": "Hello"}).encode()
    head = f"POST /v1/responses HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {tenant.secret}\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        yield tenant.only_id(), connection


@pytest.mark.parametrize("background", [None, False])
def test_a_held_request_is_answered_on_completion(tenant: Tenant, worker: FakeWorker, background: bool | None) -> None:
    fields = {} if background is None else {"background": background}
    with held(tenant, **fields) as (job_id, answer):
        assert tenant.get(job_id)["background"] is False
        worker.claim(job_id)
        assert not answer.done()
        worker.complete(job_id)
        done = answer.result(5)
    assert done.status_code == 200
    body = done.json()
    assert (body["id"], body["status"], body["background"]) == (job_id, "completed", False)
    assert body["output"][0]["content"][0]["text"] == TEXT
    assert body["usage"] == usage_json()
    assert body["completed_at"] >= body["created_at"]
    assert body == tenant.get(job_id)
    assert "retry-after" not in done.headers
    assert "openai-poll-after-ms" not in done.headers


def test_a_held_request_is_answered_with_a_partial_answer(tenant: Tenant, worker: FakeWorker) -> None:
    with held(tenant) as (job_id, answer):
        worker.complete_partial(job_id)
        body = answer.result(5).json()
    assert (body["status"], body["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert body["output"][0]["content"][0]["text"] == TEXT


def test_a_held_request_is_answered_when_another_request_cancels_it(tenant: Tenant) -> None:
    with held(tenant) as (job_id, answer):
        assert tenant.http.post(f"/v1/responses/{job_id}/cancel").json()["status"] == "cancelled"
        body = answer.result(5).json()
    assert (body["id"], body["status"], body["output"]) == (job_id, "cancelled", [])


def test_a_held_request_is_answered_when_its_response_is_deleted(tenant: Tenant) -> None:
    with held(tenant) as (job_id, answer):
        assert tenant.http.delete(f"/v1/responses/{job_id}").json()["deleted"] is True
        ended = answer.result(5)
    if ended.status_code == 200:  # the request may see the cancel that precedes the deletion
        assert ended.json()["status"] == "cancelled"
    else:
        assert_error(ended, 404, param="response_id")


def test_a_failed_attempt_does_not_end_a_held_request(tenant: Tenant, worker: FakeWorker) -> None:
    with held(tenant) as (job_id, answer):
        worker.reschedule(job_id, Failure(ErrorKind.RATE_LIMITED, "Slow down.", 429), timedelta(0))
        assert not answer.done()
        worker.complete(job_id)
        assert answer.result(5).json()["backburner"]["attempt"] == 2


@pytest.mark.parametrize("code", FAILED_RESPONSES)
def test_each_failure_has_a_status_and_must_not_be_retried(tenant: Tenant, worker: FakeWorker, code: str) -> None:
    status, type_ = FAILED_RESPONSES[code]
    failure = Failure(ErrorKind.REJECTED, "What the provider said.", 400, provider_param="input")
    with held(tenant) as (job_id, answer):
        worker.fail(job_id, failure, code)
        failed = answer.result(5)
    found = assert_error(failed, status, type_=type_, code=code, param="input")
    assert found == "What the provider said."
    body = tenant.get(job_id)
    assert body["status"] == "failed"
    assert body["error"] == {"code": code, "message": found, "type": type_, "param": "input"}
    assert body["backburner"]["error"] == {"kind": "rejected", "http_status": 400, "message": found, "code": code}


@pytest.mark.parametrize("code", FAILED_RESPONSES)
def test_a_failure_after_a_possibly_billed_call_gets_a_status_that_no_client_retries(
    tenant: Tenant, worker: FakeWorker, code: str
) -> None:
    with held(tenant) as (job_id, answer):
        worker.reschedule(job_id, Failure(ErrorKind.INTERRUPTED, "The connection broke."), timedelta(0))
        worker.fail(job_id, Failure(ErrorKind.OVERLOADED, "Busy.", 503), code)
        failed = answer.result(5)
    assert failed.status_code in (400, 404)
    assert failed.headers["x-should-retry"] == "false"
    assert failed.json()["error"]["code"] == code


def test_a_provider_specific_error_code_is_a_bad_request(tenant: Tenant, worker: FakeWorker) -> None:
    with held(tenant) as (job_id, answer):
        worker.fail(job_id, Failure(ErrorKind.ANSWER_REFUSED, "No."), "invalid_prompt")
        assert_error(answer.result(5), 400, code="invalid_prompt")


def test_every_kind_of_failure_has_a_status() -> None:
    assert set(ERROR_CODES.values()) <= set(FAILED_RESPONSES)


@pytest.mark.parametrize("held_by", ["create", "wait"])
def test_disconnecting_ends_the_wait_and_does_not_cancel_the_job(
    server: Server, tenant: Tenant, worker: FakeWorker, held_by: str
) -> None:
    if held_by == "create":
        with held_by_socket(server, tenant) as (job_id, _):
            await_until(lambda: server.waiting(job_id), 5, "the request does not wait")
    else:
        job_id = tenant.submit()["id"]
        head = (
            f"GET /v1/responses/{job_id}?wait=300 HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {tenant.secret}\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            connection.sendall(head.encode())
            await_until(lambda: server.waiting(job_id), 5, "the request does not wait")
    await_until(lambda: not server.waiting(job_id), 2, "the request still waits")
    assert tenant.get(job_id)["status"] == "queued"
    worker.complete(job_id)
    assert tenant.get(job_id)["output"][0]["content"][0]["text"] == TEXT


def test_disconnecting_does_not_disturb_another_waiting_client(
    server: Server, tenant: Tenant, worker: FakeWorker
) -> None:
    with ThreadPoolExecutor(1) as pool:
        with held_by_socket(server, tenant) as (job_id, connection):
            other = pool.submit(tenant.get, job_id, wait=30)
            await_until(lambda: len(server.state.listener._waiting.get(job_id, ())) == 2, 5, "they do not wait")
            connection.close()
        await_until(lambda: len(server.state.listener._waiting.get(job_id, ())) == 1, 5, "both or none are left")
        assert not other.done()
        worker.complete(job_id)
        assert other.result(5)["status"] == "completed"
    await_until(lambda: not server.waiting(job_id), 2, "a request still waits")


@pytest.fixture
def early_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send the headers of held answers almost at once."""
    monkeypatch.setattr(api.routes.responses, "HEADERS_HELD_SECONDS", 0.2)
    monkeypatch.setattr(api.held_response, "KEEPALIVE_SECONDS", 0.1)


@contextmanager
def begun(tenant: Tenant) -> Iterator[tuple[str, Iterator[str]]]:
    """Send a held request and read its headers. Yield the response's id and the rest of the body."""
    with tenant.http.stream("POST", "/v1/responses", json={"model": MODEL, "input": "Hello"}) as answer:
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
        assert answer.headers["x-request-id"].startswith("req_")
        body = answer.iter_text()
        assert next(body).isspace()
        yield answer.headers["openai-response-id"], body


@pytest.mark.usefixtures("early_headers")
def test_a_long_held_request_gets_headers_and_white_space_before_its_answer(tenant: Tenant, worker: FakeWorker) -> None:
    with begun(tenant) as (job_id, body):
        assert next(body).isspace()
        assert next(body).isspace()
        worker.complete(job_id)
        assert json.loads("".join(body)) == tenant.get(job_id)


@pytest.mark.usefixtures("early_headers")
@pytest.mark.parametrize("status", [Status.INCOMPLETE, Status.FAILED, Status.CANCELLED])
def test_after_the_headers_the_body_reports_the_outcome(tenant: Tenant, worker: FakeWorker, status: Status) -> None:
    with begun(tenant) as (job_id, body):
        worker.bring_to(status, job_id)
        answered = json.loads("".join(body))
    assert answered == tenant.get(job_id)
    assert answered["status"] == status
    assert (answered["error"] is not None) is (status is Status.FAILED)


@pytest.mark.usefixtures("early_headers")
def test_an_sdk_reads_an_answer_that_begins_with_white_space(
    server: Server, tenant: Tenant, worker: FakeWorker
) -> None:
    headers_came = Event()
    http = DefaultHttpxClient(event_hooks={"response": [lambda _: headers_came.set()]})
    with (
        OpenAI(base_url=f"{server.url}/v1", api_key=tenant.secret, http_client=http) as sdk,
        ThreadPoolExecutor(1) as pool,
    ):
        answer = pool.submit(sdk.responses.create, model=MODEL, input="Hello")
        job_id = tenant.only_id()
        assert headers_came.wait(5), "no headers came"
        worker.fail(job_id, Failure(ErrorKind.SERVER_ERROR, "Oh no.", 500))
        failed = answer.result(5)
        assert failed.error is not None
        assert (failed.id, failed.status, failed.error.code) == (job_id, "failed", "server_error")
    assert len(tenant.ids()) == 1


@pytest.mark.usefixtures("early_headers")
def test_an_sdk_with_a_short_timeout_waits_and_is_billed_once(
    server: Server, tenant: Tenant, worker: FakeWorker
) -> None:
    timeout: Any = 0.6  # the SDK's limit between two bytes
    with (
        OpenAI(base_url=f"{server.url}/v1", api_key=tenant.secret, timeout=timeout) as sdk,
        ThreadPoolExecutor(1) as pool,
    ):
        answer = pool.submit(sdk.responses.create, model=MODEL, input="Hello")
        job_id = tenant.only_id()
        time.sleep(3 * timeout)  # the time itself is what is tested
        worker.complete(job_id)
        assert answer.result(5).output_text == TEXT
    assert tenant.ids() == [job_id]


@pytest.mark.usefixtures("early_headers")
def test_disconnecting_after_the_headers_ends_the_wait_and_the_id_is_known(
    server: Server, tenant: Tenant, worker: FakeWorker
) -> None:
    with held_by_socket(server, tenant) as (job_id, connection):
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(4096)
        assert f"openai-response-id: {job_id}".encode() in head
        await_until(lambda: server.waiting(job_id), 5, "the request does not wait")
    await_until(lambda: not server.waiting(job_id), 2, "the request still waits")
    worker.complete(job_id)
    assert tenant.get(job_id)["output"][0]["content"][0]["text"] == TEXT


@pytest.mark.usefixtures("early_headers")
def test_a_server_that_stops_completes_the_body_with_the_queued_response(server: Server, worker: FakeWorker) -> None:
    with serve(server.settings) as stopping, a_tenant(stopping) as tenant, begun(tenant) as (job_id, body):
        stopping.stop()
        answered = json.loads("".join(body))
    assert (answered["id"], answered["status"], answered["output"]) == (job_id, "queued", [])
    assert worker.job(job_id).status == "queued"


@pytest.mark.usefixtures("early_headers")
def test_deleting_a_response_after_the_headers_is_reported_in_the_body(tenant: Tenant) -> None:
    with begun(tenant) as (job_id, body):
        tenant.http.delete(f"/v1/responses/{job_id}")
        answered = json.loads("".join(body))
    assert (answered["id"], answered["status"], answered["output"]) == (
        job_id,
        "failed",
        [],
    )  # the fields that SDKs require
    assert answered["error"]["code"] == "response_not_found"


def test_every_answer_names_its_response(tenant: Tenant, other: Tenant, worker: FakeWorker) -> None:
    answer = tenant.http.post("/v1/responses", json={"model": MODEL, "input": "Hello", "background": True})
    job_id = answer.headers["openai-response-id"]
    assert answer.json()["id"] == job_id
    assert tenant.http.get(f"/v1/responses/{job_id}").headers["openai-response-id"] == job_id
    with held(other) as (failing_id, failed):
        worker.fail(failing_id, Failure(ErrorKind.REJECTED, "No.", 400))
        assert failed.result(5).headers["openai-response-id"] == failing_id


def test_a_job_that_ends_before_the_wait_begins_is_answered_at_once(tenant: Tenant, worker: FakeWorker) -> None:
    job_id = tenant.submit()["id"]
    worker.complete(job_id, announce=False)
    assert tenant.get(job_id, wait=300)["status"] == "completed"


def test_a_server_that_stops_answers_503_and_forbids_repeating_the_create(server: Server, worker: FakeWorker) -> None:
    with (
        serve(server.settings) as stopping,
        a_tenant(stopping) as tenant,
        ThreadPoolExecutor(1) as pool,
        held(tenant) as (job_id, answer),
    ):
        waiter = pool.submit(tenant.http.get, f"/v1/responses/{job_id}?wait=60")
        await_until(lambda: len(stopping.state.listener._waiting.get(job_id, ())) == 2, 5, "they do not wait")
        stopping.stop()
        created, answered = answer.result(10), waiter.result(10)
    assert job_id in assert_error(created, 503, type_="server_error", code="service_unavailable")
    assert answered.status_code == 503
    assert answered.headers["retry-after"] == "2"
    assert "x-should-retry" not in answered.headers  # a repeated read costs nothing
    assert worker.job(job_id).status == "queued"
