"""Polling: the fields of a response in each status, and the hints when to poll again."""

import time
from datetime import timedelta

import pytest

from jobs.errors import ErrorKind, Failure
from jobs.lifecycle import Status
from tests.api.world import COST_MICROUSD, TEXT, FakeWorker, Tenant, assert_error, usage_json

LATE = Failure(ErrorKind.RATE_LIMITED, "Slow down.", 429)


def test_queued_shows_the_queue_position(tenant: Tenant, worker: FakeWorker) -> None:
    first, second = tenant.submit()["id"], tenant.submit()["id"]
    assert tenant.get(second)["backburner"]["queue_position"] == 2
    worker.claim(first)
    assert tenant.get(second)["backburner"]["queue_position"] == 1
    assert tenant.get(first)["backburner"]["queue_position"] is None


def test_the_queue_is_ordered_by_priority_and_then_by_age(tenant: Tenant) -> None:
    ids = [tenant.submit(priority=priority)["id"] for priority in (0, 5, 9, 5)]
    assert [tenant.get(each)["backburner"]["queue_position"] for each in ids] == [4, 2, 1, 3]


def test_in_progress_shows_its_attempt(tenant: Tenant, worker: FakeWorker) -> None:
    job_id = tenant.submit()["id"]
    worker.claim(job_id)
    body = tenant.get(job_id)
    assert (body["status"], body["backburner"]["attempt"], body["output"]) == ("in_progress", 1, [])
    assert body["completed_at"] is None


def test_a_rescheduled_job_is_queued_and_shows_its_next_attempt_and_last_error(
    tenant: Tenant, worker: FakeWorker
) -> None:
    job_id = tenant.submit()["id"]
    rescheduled = worker.reschedule(job_id, LATE, timedelta(seconds=5))
    answer = tenant.http.get(f"/v1/responses/{job_id}")
    body = answer.json()
    assert (body["status"], body["error"]) == ("queued", None)
    facts = body["backburner"]
    assert facts["next_attempt_at"] == pytest.approx(rescheduled.available_at.timestamp(), abs=1e-5)
    assert (facts["attempt"], facts["queue_position"]) == (1, 1)
    assert facts["error"] == {
        "kind": "rate_limited",
        "http_status": 429,
        "message": "Slow down.",
        "code": None,
    }
    assert 4 <= int(answer.headers["retry-after"]) <= 6  # a second after that time


def test_completed_shows_the_answer_its_usage_and_its_cost(tenant: Tenant, worker: FakeWorker) -> None:
    job_id = tenant.submit()["id"]
    worker.complete(job_id)
    answer = tenant.http.get(f"/v1/responses/{job_id}")
    body = answer.json()
    assert body["output"][0]["content"] == [{"type": "output_text", "text": TEXT, "annotations": [], "logprobs": []}]
    assert body["usage"] == usage_json()
    facts = body["backburner"]
    assert (facts["cost_usd"], facts["cost_source"]) == (COST_MICROUSD / 1e6, "provider")
    assert (facts["provider_response_id"], facts["provider_model"]) == ("resp_provider", "o3-pro-2025-06-10")
    assert "retry-after" not in answer.headers


def test_failed_shows_an_error_and_cancelled_none(tenant: Tenant, worker: FakeWorker) -> None:
    failed, cancelled = tenant.submit()["id"], tenant.submit()["id"]
    worker.bring_to(Status.FAILED, failed)
    worker.bring_to(Status.CANCELLED, cancelled)
    assert tenant.get(failed)["error"] == {
        "code": "provider_rejected",
        "message": "The provider refuses.",
        "type": "invalid_request_error",
        "param": None,
    }
    body = tenant.get(cancelled)
    assert (body["status"], body["error"], body["output"], body["usage"]) == ("cancelled", None, [], None)
    assert body["completed_at"] is not None


def test_an_answer_without_text_has_an_empty_output_list(tenant: Tenant, worker: FakeWorker) -> None:
    job_id = tenant.submit()["id"]
    worker.complete(job_id, "")
    assert tenant.get(job_id)["output"] == []


@pytest.mark.parametrize("status", [Status.QUEUED, Status.IN_PROGRESS])
def test_the_hints_agree_and_lie_within_ten_seconds(tenant: Tenant, worker: FakeWorker, status: Status) -> None:
    job_id = tenant.submit()["id"]
    worker.bring_to(status, job_id)
    headers = tenant.http.get(f"/v1/responses/{job_id}").headers
    assert 1 <= int(headers["retry-after"]) <= 10
    assert abs(int(headers["openai-poll-after-ms"]) / 1000 - int(headers["retry-after"])) <= 0.5


def test_an_etag_saves_the_body_until_something_changes(tenant: Tenant, worker: FakeWorker) -> None:
    job_id = tenant.submit()["id"]
    seen = []
    for step in (lambda: None, lambda: worker.claim(job_id), lambda: worker.complete(job_id)):
        step()
        answer = tenant.http.get(f"/v1/responses/{job_id}")
        etag = answer.headers["etag"]
        seen.append(etag)
        again = tenant.http.get(f"/v1/responses/{job_id}", headers={"if-none-match": etag})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
        assert again.headers["x-request-id"] != answer.headers["x-request-id"]
        assert again.headers.get("retry-after") == answer.headers.get("retry-after")
    assert len(set(seen)) == 3
    answer = tenant.http.get(f"/v1/responses/{job_id}", headers={"if-none-match": seen[0]})
    assert (answer.status_code, answer.json()["status"]) == (200, "completed")


def test_etags_may_be_a_list_weak_or_a_star(tenant: Tenant) -> None:
    job_id = tenant.submit()["id"]
    etag = tenant.http.get(f"/v1/responses/{job_id}").headers["etag"]
    for value, status in (
        (f'"a", {etag}', 304),
        (f"W/{etag}", 304),
        ("*", 304),
        ('"a"', 200),
        ("", 200),
        ("\xff", 200),
    ):
        headers = [(b"if-none-match", value.encode("latin-1"))]
        assert tenant.http.get(f"/v1/responses/{job_id}", headers=headers).status_code == status


def test_a_retry_changes_the_etag(tenant: Tenant, worker: FakeWorker) -> None:
    job_id = tenant.submit()["id"]
    worker.bring_to(Status.FAILED, job_id)
    failed = tenant.http.get(f"/v1/responses/{job_id}").headers["etag"]
    assert tenant.http.post(f"/v1/responses/{job_id}/retry").headers["etag"] != failed


def test_wait_returns_after_its_time_if_nothing_happened(tenant: Tenant) -> None:
    job_id = tenant.submit()["id"]
    began = time.monotonic()
    answer = tenant.http.get(f"/v1/responses/{job_id}", params={"wait": 0.4})
    assert 0.4 <= time.monotonic() - began < 3
    assert (answer.status_code, answer.json()["status"]) == (200, "queued")
    assert answer.headers["retry-after"] == "1"


def test_wait_with_an_etag_gets_304_after_its_time_and_200_once_the_job_has_ended(
    tenant: Tenant, worker: FakeWorker
) -> None:
    job_id = tenant.submit()["id"]
    etag = tenant.http.get(f"/v1/responses/{job_id}").headers["etag"]
    headers = {"if-none-match": etag}
    assert tenant.http.get(f"/v1/responses/{job_id}?wait=0.1", headers=headers).status_code == 304
    worker.complete(job_id)
    assert tenant.http.get(f"/v1/responses/{job_id}?wait=5", headers=headers).status_code == 200


@pytest.mark.parametrize("wait", ["301", "300.001", "-1", "nan", "inf", "-inf", "soon", "", "1e400", "\0"])
def test_a_wait_out_of_bounds_is_refused(tenant: Tenant, wait: str) -> None:
    job_id = tenant.submit()["id"]
    answer = tenant.http.get(f"/v1/responses/{job_id}", params={"wait": wait})
    assert_error(answer, 400, code="invalid_value", param="wait")


@pytest.mark.parametrize("wait", ["0", "0.0", "300"])
def test_the_bounds_of_wait_are_accepted(tenant: Tenant, worker: FakeWorker, wait: str) -> None:
    job_id = tenant.submit()["id"]
    worker.complete(job_id)
    assert tenant.get(job_id, wait=wait)["status"] == "completed"


def test_waiting_for_an_unknown_response_is_404_at_once(tenant: Tenant) -> None:
    began = time.monotonic()
    assert_error(tenant.http.get("/v1/responses/resp_nothing?wait=300"), 404, param="response_id")
    assert time.monotonic() - began < 3


def test_stream_false_polls(tenant: Tenant) -> None:
    job_id = tenant.submit()["id"]
    assert tenant.get(job_id, stream="false", starting_after=3, **{"include[]": "x"})["id"] == job_id
    assert_error(tenant.http.get(f"/v1/responses/{job_id}?stream=maybe"), 400, code="invalid_value", param="stream")
