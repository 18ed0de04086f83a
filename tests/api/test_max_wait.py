"""A held or streamed create waits for an unavailable provider, but not until its job's deadline."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

import api.routes.responses
from jobs.errors import ErrorKind, Failure
from jobs.store import provider_limits
from tests.api.watching import frames
from tests.api.world import MODEL, FakeWorker, Server, Tenant, assert_error, serve
from tests.support.records import claim_one
from tests.support.waiting import await_until

pytestmark = pytest.mark.one_database

MAX_WAIT = 0.5
AN_HOUR = timedelta(hours=1)
OVERLOADED = Failure(ErrorKind.OVERLOADED, "Come back later.", 503)
CUT = Failure(ErrorKind.INTERRUPTED, "The connection broke.")


@pytest.fixture(scope="module")
def server(server: Server) -> Iterator[Server]:
    """A server that waits half a second instead of ten minutes."""
    with serve(server.settings.model_copy(update={"held_patience_seconds": MAX_WAIT})) as served:
        yield served


@contextmanager
def created(tenant: Tenant, **fields: Any) -> Iterator[tuple[str, Future[httpx.Response]]]:
    """Send a create. Yield the response's id and the future answer."""
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(tenant.http.post, "/v1/responses", json={"model": MODEL, "input": "Hello", **fields})
        job_id = tenant.only_id()
        try:
            yield job_id, answer
        finally:
            if not answer.done():  # a failed test must not wait for a request that is held for ever
                tenant.http.post(f"/v1/responses/{job_id}/cancel")


def shut(server: Server) -> None:
    now = datetime.now(UTC)
    with server.database.begin() as tx:
        provider_limits.pause(
            tx, server.settings.provider_name, ErrorKind.UNREACHABLE, now, now, because="connection refused"
        )


@pytest.fixture
def away(server: Server) -> Iterator[None]:
    """A provider that was found unavailable before the create."""
    shut(server)
    yield
    with server.database.begin() as tx:
        provider_limits.resume(tx, server.settings.provider_name, datetime.now(UTC))


def test_a_held_create_gets_503_and_is_never_called(server: Server, tenant: Tenant, worker: FakeWorker) -> None:
    with created(tenant) as (job_id, answer):
        worker.reschedule(job_id, OVERLOADED, AN_HOUR)
        refused = answer.result(5)
    message = assert_error(refused, 503, type_="server_error", code="provider_unavailable")
    assert "provider is overloaded (HTTP 503)" in message
    assert "Nothing was billed" in message
    assert refused.headers["retry-after"] == "30"
    body = tenant.get(job_id)
    assert (body["status"], body["error"]["code"]) == ("failed", "provider_unavailable")
    assert body["backburner"]["error"]["kind"] == "overloaded"
    with server.database.begin() as tx:
        assert claim_one(tx, job_id, "a-worker", datetime.now(UTC) + 2 * AN_HOUR) is None


@pytest.mark.usefixtures("away")
def test_a_held_create_without_an_attempt_gets_503_too(tenant: Tenant) -> None:
    with created(tenant) as (job_id, answer):
        message = assert_error(answer.result(5), 503, type_="server_error", code="provider_unavailable")
    assert "provider unreachable (connection refused)" in message
    assert tenant.get(f"{job_id}/attempts")["data"] == []


@pytest.mark.usefixtures("away")
def test_a_streamed_create_ends_with_the_same_code(tenant: Tenant) -> None:
    with created(tenant, stream=True) as (job_id, answer):
        events = frames(answer.result(5).text)
    assert [each["type"] for each in events] == ["response.created", "response.queued", "response.failed"]
    assert events[-1]["response"]["error"]["code"] == "provider_unavailable"
    assert tenant.get(job_id)["status"] == "failed"


@pytest.mark.usefixtures("away")
def test_after_the_headers_the_body_reports_the_unavailable_provider(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api.routes.responses, "HEADERS_HELD_SECONDS", 0.1)
    with created(tenant) as (job_id, answer):
        answered = json.loads(answer.result(5).text)
    assert (answered["id"], answered["status"], answered["error"]["code"]) == (job_id, "failed", "provider_unavailable")


def has_a_call_out(worker: FakeWorker, job_id: str) -> None:
    worker.claim(job_id)


def may_have_been_billed(worker: FakeWorker, job_id: str) -> None:
    worker.reschedule(job_id, CUT, timedelta(0))
    worker.reschedule(job_id, OVERLOADED, timedelta(0))


def failed_by_itself(worker: FakeWorker, job_id: str) -> None:
    worker.reschedule(job_id, Failure(ErrorKind.ANSWER_FAILED, "Oh no.", 200), timedelta(0))


@pytest.mark.parametrize("waits", [has_a_call_out, may_have_been_billed, failed_by_itself])
def test_a_create_that_waits_for_another_reason_goes_on(
    tenant: Tenant, worker: FakeWorker, waits: Callable[[FakeWorker, str], None]
) -> None:
    with created(tenant) as (job_id, answer):
        waits(worker, job_id)
        assert not wait([answer], 2 * MAX_WAIT).done
        worker.complete(job_id)
        assert answer.result(5).json()["status"] == "completed"


@pytest.mark.usefixtures("away")
def test_a_background_create_waits_with_and_without_a_stream(
    server: Server, tenant: Tenant, worker: FakeWorker
) -> None:
    with created(tenant, background=True, stream=True) as (job_id, answer):
        await_until(lambda: server.waiting(job_id) or not answer.done(), 5, "the stream has not started")
        assert not wait([answer], 2 * MAX_WAIT).done
        worker.complete(job_id)
        assert frames(answer.result(5).text)[-1]["type"] == "response.completed"
