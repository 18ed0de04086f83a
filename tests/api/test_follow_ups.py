"""`previous_response_id`: what is accepted, what is refused and how it is named, and what a follow-up shows."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import openai
import pytest
from openai import OpenAI

from jobs.errors import ErrorKind, Failure
from jobs.lifecycle import Status
from jobs.notifications import Notifier
from jobs.redis_url import connect
from tests.api.world import MODEL, Hand, Server, Tenant, assert_error
from tests.support.names import get_names
from worker.maintenance import follow_ups, pruner

NOBODY = Notifier(connect("redis://127.0.0.1:1"), get_names)
NOWHERE = "resp_01980000000000000000000000000000"


@pytest.fixture
def client(server: Server, tenant: Tenant) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key=tenant.secret) as client:
        yield client


def test_it_is_due_at_once_after_an_answer_and_echoes_what_it_follows(tenant: Tenant, hand: Hand) -> None:
    first = tenant.submit()["id"]
    hand.complete(first)
    follow_up = tenant.submit("And then?", previous_response_id=first, instructions="Be brief.")
    assert (follow_up["previous_response_id"], follow_up["backburner"]["blocked_by"]) == (first, None)
    assert hand.claim(follow_up["id"]).status is Status.IN_PROGRESS


def test_it_waits_for_one_that_runs(server: Server, tenant: Tenant, hand: Hand) -> None:
    first = tenant.submit()["id"]
    follow_up = tenant.submit(previous_response_id=first)
    facts = follow_up["backburner"]
    assert (facts["blocked_by"], facts["next_attempt_at"], facts["queue_position"]) == (first, None, None)
    hand.complete(first)
    follow_ups.run_once(server.database, NOBODY, datetime.now(UTC))
    assert tenant.get(follow_up["id"])["backburner"]["blocked_by"] is None
    assert hand.claim(follow_up["id"]).status is Status.IN_PROGRESS


def test_when_that_fails_it_fails_and_says_why(server: Server, tenant: Tenant, hand: Hand) -> None:
    first = tenant.submit()["id"]
    follow_up = tenant.submit(previous_response_id=first)["id"]
    hand.fail(first, Failure(ErrorKind.REJECTED, "The provider refuses.", 400))
    follow_ups.run_once(server.database, NOBODY, datetime.now(UTC))
    failed = tenant.get(follow_up)
    assert (failed["status"], failed["error"]["code"]) == ("failed", "previous_response_failed")
    assert first in failed["error"]["message"]
    assert "The provider refuses." in failed["error"]["message"]
    assert failed["previous_response_id"] == first


def test_what_is_not_there_is_refused_alike_whether_anothers_or_nobodys(
    client: OpenAI, tenant: Tenant, other: Tenant, hand: Hand
) -> None:
    foreign = other.submit()["id"]
    hand.complete(foreign)
    deleted = tenant.submit()["id"]
    tenant.http.delete(f"/v1/responses/{deleted}")
    told = set()
    for name in (foreign, deleted, NOWHERE):
        with pytest.raises(openai.BadRequestError) as refused:
            client.responses.create(model=MODEL, input="x", previous_response_id=name)
        assert (refused.value.code, refused.value.param) == ("previous_response_not_found", "previous_response_id")
        told.add(refused.value.message.replace(name, "ID"))
    assert len(told) == 1
    assert tenant.ids() == []


@pytest.mark.parametrize("status", [Status.FAILED, Status.CANCELLED])
def test_what_has_no_answer_is_refused(tenant: Tenant, hand: Hand, status: Status) -> None:
    first = tenant.submit()["id"]
    hand.bring_to(status, first)
    body = {"model": MODEL, "input": "x", "previous_response_id": first}
    refused = tenant.http.post("/v1/responses", json=body)
    told = assert_error(refused, 400, code="previous_response_failed", param="previous_response_id")
    assert first in told


def test_a_conversation_with_a_hole_is_refused_and_the_hole_is_named(tenant: Tenant, hand: Hand) -> None:
    first = tenant.submit()["id"]
    hand.complete(first)
    second = tenant.submit(previous_response_id=first)["id"]
    hand.complete(second)
    tenant.http.delete(f"/v1/responses/{first}")
    body = {"model": MODEL, "input": "x", "previous_response_id": second}
    told = assert_error(
        tenant.http.post("/v1/responses", json=body),
        400,
        code="previous_response_not_found",
        param="previous_response_id",
    )
    assert first in told
    assert second in told


def test_what_is_not_stored_can_be_followed_for_ten_minutes(server: Server, tenant: Tenant, hand: Hand) -> None:
    first = tenant.submit(store=False)
    assert first["store"] is False
    hand.complete(first["id"])
    assert tenant.submit(previous_response_id=first["id"])["status"] == "queued"
    last = tenant.submit(store=False)["id"]
    hand.complete(last)
    pruner.run_once(server.database, datetime.now(UTC) + timedelta(minutes=10, seconds=1), timedelta(days=1))
    body = {"model": MODEL, "input": "x", "previous_response_id": last}
    assert_error(
        tenant.http.post("/v1/responses", json=body),
        400,
        code="previous_response_not_found",
        param="previous_response_id",
    )
    assert_error(tenant.http.get(f"/v1/responses/{last}"), 404, param="response_id")
    assert tenant.get(first["id"])["status"] == "completed"  # a follow-up that is open still needs it


def test_a_retried_follow_up_waits_again(server: Server, tenant: Tenant, hand: Hand) -> None:
    first = tenant.submit()["id"]
    follow_up = tenant.submit(previous_response_id=first)["id"]
    tenant.http.post(f"/v1/responses/{follow_up}/cancel")
    retried = tenant.http.post(f"/v1/responses/{follow_up}/retry").json()
    assert (retried["status"], retried["backburner"]["blocked_by"]) == ("queued", first)
    hand.complete(first)
    follow_ups.run_once(server.database, NOBODY, datetime.now(UTC))
    assert hand.claim(follow_up).status is Status.IN_PROGRESS


def test_an_empty_input_is_enough(tenant: Tenant, hand: Hand) -> None:
    first = tenant.submit()["id"]
    hand.complete(first)
    assert tenant.submit([], previous_response_id=first)["status"] == "queued"
