"""`previous_response_id`: accepted and refused values, error messages, and the fields of a follow-up."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import openai
import pytest
from openai import OpenAI

from jobs.errors import ErrorKind, Failure
from jobs.lifecycle import Status
from jobs.notifications import Notifier
from jobs.redis_url import connect
from tests.api.world import MODEL, FakeWorker, Server, Tenant, assert_error
from tests.support.names import get_names
from worker.maintenance import follow_ups, pruner

NOBODY = Notifier(connect("redis://127.0.0.1:1"), get_names)
NOWHERE = "resp_01980000000000000000000000000000"


@pytest.fixture
def client(server: Server, tenant: Tenant) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key=tenant.secret) as client:
        yield client


def test_a_follow_up_of_a_completed_response_is_due_at_once_and_echoes_the_id(
    tenant: Tenant, worker: FakeWorker
) -> None:
    first = tenant.submit()["id"]
    worker.complete(first)
    follow_up = tenant.submit("And then?", previous_response_id=first, instructions="Be brief.")
    assert (follow_up["previous_response_id"], follow_up["backburner"]["blocked_by"]) == (first, None)
    assert worker.claim(follow_up["id"]).status is Status.IN_PROGRESS


def test_a_follow_up_waits_for_a_running_response(server: Server, tenant: Tenant, worker: FakeWorker) -> None:
    first = tenant.submit()["id"]
    follow_up = tenant.submit(previous_response_id=first)
    facts = follow_up["backburner"]
    assert (facts["blocked_by"], facts["next_attempt_at"], facts["queue_position"]) == (first, None, None)
    worker.complete(first)
    follow_ups.run_once(server.database, NOBODY, datetime.now(UTC))
    assert tenant.get(follow_up["id"])["backburner"]["blocked_by"] is None
    assert worker.claim(follow_up["id"]).status is Status.IN_PROGRESS


def test_a_follow_up_fails_with_the_response_it_waits_for(server: Server, tenant: Tenant, worker: FakeWorker) -> None:
    first = tenant.submit()["id"]
    follow_up = tenant.submit(previous_response_id=first)["id"]
    worker.fail(first, Failure(ErrorKind.REJECTED, "The provider refuses.", 400))
    follow_ups.run_once(server.database, NOBODY, datetime.now(UTC))
    failed = tenant.get(follow_up)
    assert (failed["status"], failed["error"]["code"]) == ("failed", "previous_response_failed")
    assert first in failed["error"]["message"]
    assert "The provider refuses." in failed["error"]["message"]
    assert failed["previous_response_id"] == first


def test_a_foreign_id_and_an_unknown_id_get_the_same_error(
    client: OpenAI, tenant: Tenant, other: Tenant, worker: FakeWorker
) -> None:
    foreign = other.submit()["id"]
    worker.complete(foreign)
    deleted = tenant.submit()["id"]
    tenant.http.delete(f"/v1/responses/{deleted}")
    messages = set()
    for name in (foreign, deleted, NOWHERE):
        with pytest.raises(openai.BadRequestError) as refused:
            client.responses.create(model=MODEL, input="x", previous_response_id=name)
        assert (refused.value.code, refused.value.param) == ("previous_response_not_found", "previous_response_id")
        messages.add(refused.value.message.replace(name, "ID"))
    assert len(messages) == 1
    assert tenant.ids() == []


@pytest.mark.parametrize("status", [Status.FAILED, Status.CANCELLED])
def test_a_response_without_an_answer_cannot_be_followed(tenant: Tenant, worker: FakeWorker, status: Status) -> None:
    first = tenant.submit()["id"]
    worker.bring_to(status, first)
    body = {"model": MODEL, "input": "x", "previous_response_id": first}
    refused = tenant.http.post("/v1/responses", json=body)
    error = assert_error(refused, 400, code="previous_response_failed", param="previous_response_id")
    assert first in error


def test_a_conversation_with_a_missing_answer_is_refused_by_its_id(tenant: Tenant, worker: FakeWorker) -> None:
    first = tenant.submit()["id"]
    worker.complete(first)
    second = tenant.submit(previous_response_id=first)["id"]
    worker.complete(second)
    tenant.http.delete(f"/v1/responses/{first}")
    body = {"model": MODEL, "input": "x", "previous_response_id": second}
    error = assert_error(
        tenant.http.post("/v1/responses", json=body),
        400,
        code="previous_response_not_found",
        param="previous_response_id",
    )
    assert first in error
    assert second in error


def test_a_response_with_store_false_can_be_followed_for_ten_minutes(
    server: Server, tenant: Tenant, worker: FakeWorker
) -> None:
    first = tenant.submit(store=False)
    assert first["store"] is False
    worker.complete(first["id"])
    assert tenant.submit(previous_response_id=first["id"])["status"] == "queued"
    last = tenant.submit(store=False)["id"]
    worker.complete(last)
    pruner.run_once(server.database, datetime.now(UTC) + timedelta(minutes=10, seconds=1), timedelta(days=1))
    body = {"model": MODEL, "input": "x", "previous_response_id": last}
    assert_error(
        tenant.http.post("/v1/responses", json=body),
        400,
        code="previous_response_not_found",
        param="previous_response_id",
    )
    assert_error(tenant.http.get(f"/v1/responses/{last}"), 404, param="response_id")
    assert tenant.get(first["id"])["status"] == "completed"  # an unfinished follow-up still needs it


def test_a_retried_follow_up_waits_again(server: Server, tenant: Tenant, worker: FakeWorker) -> None:
    first = tenant.submit()["id"]
    follow_up = tenant.submit(previous_response_id=first)["id"]
    tenant.http.post(f"/v1/responses/{follow_up}/cancel")
    retried = tenant.http.post(f"/v1/responses/{follow_up}/retry").json()
    assert (retried["status"], retried["backburner"]["blocked_by"]) == ("queued", first)
    worker.complete(first)
    follow_ups.run_once(server.database, NOBODY, datetime.now(UTC))
    assert worker.claim(follow_up).status is Status.IN_PROGRESS


def test_an_empty_input_is_enough(tenant: Tenant, worker: FakeWorker) -> None:
    first = tenant.submit()["id"]
    worker.complete(first)
    assert tenant.submit([], previous_response_id=first)["status"] == "queued"
