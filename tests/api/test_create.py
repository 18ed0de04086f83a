"""Submitting in the background: the answer, the stored fields, and the accepted bodies."""

import json
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from jobs.store.responses import get_request
from tests.api.world import MODEL, FakeWorker, Json, Server, Tenant, a_tenant, assert_error, serve, settings_for

FIELDS: Json = {
    "instructions": "Answer in verse.",
    "max_output_tokens": 20_000,
    "max_tool_calls": 3,
    "metadata": {"ticket": "4711", "": "empty key", "ключ": "💥 \u2028 value"},
    "parallel_tool_calls": False,
    "prompt": {"id": "pmpt_1", "variables": {"city": "Lisbon"}, "version": "2"},
    "reasoning": {"effort": "high", "summary": "detailed"},
    "safety_identifier": "user-7",
    "service_tier": "flex",
    "store": False,
    "temperature": 0.5,
    "text": {"format": {"type": "json_object"}, "verbosity": "low"},
    "tool_choice": {"type": "function", "name": "weather"},
    "tools": [
        {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": True, "description": None}
    ],
    "top_logprobs": 2,
    "top_p": 0.25,
    "truncation": "auto",
    "user": "somebody",
    "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": "cache-1",
}
OWN_FIELDS: Json = {"deadline_seconds": 7200, "on_unknown_outcome": "fail", "priority": 7}


def test_the_answer_has_openais_full_shape_and_our_own_fields(tenant: Tenant) -> None:
    before = int(time.time())
    answer = tenant.http.post("/v1/responses", json={"model": MODEL, "input": "Hello", "background": True})
    assert answer.status_code == 200
    body = answer.json()
    assert body.pop("id").startswith("resp_")
    assert before <= body.pop("created_at") <= time.time()
    assert body == {
        "object": "response",
        "status": "queued",
        "background": True,
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "max_tool_calls": None,
        "model": MODEL,
        "output": [],
        "parallel_tool_calls": True,
        "frequency_penalty": 0.0,
        "presence_penalty": 0.0,
        "previous_response_id": None,
        "prompt": None,
        "prompt_cache_key": None,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": None,
        "service_tier": "default",
        "store": True,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": 1.0,
        "user": None,
        "metadata": {},
        "truncation": "disabled",
        "usage": None,
        "backburner": {
            "attempt": 0,
            "max_attempts": 5,
            "queue_position": None,
            "next_attempt_at": None,
            "parked_until": None,
            "blocked_by": None,
            "waiting_for": None,
            "conversation": None,
            "provider_response_id": None,
            "provider_model": None,
            "truncation_applied": None,
            "cost_usd": None,
            "cost_source": None,
            "error": None,
        },
    }
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["openai-poll-after-ms"] == "1000"


def test_every_field_is_echoed_by_create_and_by_every_later_read(tenant: Tenant, worker: FakeWorker) -> None:
    accepted = tenant.submit(**FIELDS, **OWN_FIELDS)
    assert {name: accepted[name] for name in FIELDS} == FIELDS
    polled = tenant.get(accepted["id"])
    assert polled["backburner"].pop("queue_position") == 1
    assert accepted["backburner"].pop("queue_position") is None
    assert polled["backburner"].pop("waiting_for") == "no free slot"
    assert accepted["backburner"].pop("waiting_for") is None
    assert polled == accepted
    worker.complete(accepted["id"], temperature=1.0, instructions="the provider's")
    done = tenant.get(accepted["id"])
    assert {name: done[name] for name in FIELDS} == FIELDS


def test_the_providers_values_replace_the_requested_ones(tenant: Tenant, worker: FakeWorker) -> None:
    wishes: Json = {"service_tier": "auto", "reasoning": {"effort": "high", "summary": "auto"}, "truncation": "auto"}
    job_id = tenant.submit(**wishes)["id"]
    assert {name: tenant.get(job_id)[name] for name in wishes} == wishes
    served: Json = {"service_tier": "flex", "reasoning": {"effort": "medium", "summary": None}, "truncation": None}
    worker.complete(job_id, **served)
    done = tenant.get(job_id)
    assert (done["service_tier"], done["truncation"]) == ("flex", "auto")
    assert done["reasoning"] == {"effort": "medium", "summary": "auto"}
    again = tenant.submit(**wishes)["id"]
    worker.complete(again, truncation="disabled")
    assert tenant.get(again)["truncation"] == "disabled"
    assert tenant.get(again)["reasoning"] == wishes["reasoning"]


def test_the_providers_defaults_are_shown_for_fields_left_out(tenant: Tenant, worker: FakeWorker) -> None:
    job_id = tenant.submit()["id"]
    worker.complete(job_id, id="resp_provider", temperature=1.0, top_p=None, store=False, new_field={"a": 1}, model="x")
    done = tenant.get(job_id)
    assert (done["id"], done["model"]) == (job_id, "o3-pro-2025-06-10")  # as the call named it
    assert (done["temperature"], done["top_p"], done["store"], done["new_field"]) == (1.0, 1.0, False, {"a": 1})


def test_unknown_fields_are_stored_unchanged(server: Server, tenant: Tenant) -> None:
    unknown: Json = {"x_new": {"deep": [1, 2.5, None, True, "\0"]}, "another": None, "Ünknown": [[]]}
    accepted = tenant.submit(**unknown)
    assert accepted["x_new"] == unknown["x_new"]
    with server.database.read() as tx:
        settings, _ = get_request(tx, accepted["id"])
    assert {name: settings[name] for name in unknown} == unknown


@pytest.mark.parametrize(
    "prompt",
    [
        "Hello",
        "NUL \0, astral 💥, lone-looking \\ud800, separators \u2028 and a tab\t",
        [{"role": "user", "content": [{"type": "input_text", "text": "Hello"}], "new": None}],
    ],
)
def test_the_prompt_is_stored_unchanged_and_never_echoed(server: Server, tenant: Tenant, prompt: Any) -> None:
    accepted = tenant.submit(prompt)
    assert "input" not in accepted
    with server.database.read() as tx:
        assert get_request(tx, accepted["id"])[1] == prompt


def test_null_means_left_out(tenant: Tenant) -> None:
    names = [
        *FIELDS,
        *OWN_FIELDS,
        "webhook",
        "stream",
        "max_attempts",
        "run_at",
        "previous_response_id",
        "conversation",
    ]
    nothing = tenant.submit()
    nulls = tenant.submit(**dict.fromkeys(names))
    for each in (nothing, nulls):
        del each["id"], each["created_at"]
    assert nulls == nothing


def test_two_equal_prompts_are_two_jobs(tenant: Tenant) -> None:
    assert tenant.submit()["id"] != tenant.submit()["id"]


def test_a_model_is_also_known_by_its_alias(tenant: Tenant) -> None:
    assert tenant.submit(model="o3-pro")["model"] == MODEL


def test_an_unknown_model_is_not_found(tenant: Tenant) -> None:
    answer = tenant.http.post("/v1/responses", json={"model": "gpt-17", "input": "x", "background": True})
    assert MODEL in assert_error(answer, 404, code="model_not_found", param="model")
    assert tenant.ids() == []


@pytest.mark.parametrize("effort", ["none", "minimal", "low", "high", "xhigh", "heroic", None])
def test_any_effort_is_accepted_and_left_to_the_provider(tenant: Tenant, effort: str | None) -> None:
    assert tenant.submit(reasoning={"effort": effort})["reasoning"] == {"effort": effort, "summary": None}


def test_metadata_is_stored_and_may_have_sixteen_pairs(tenant: Tenant) -> None:
    labels = {f"{number:064}": "v" * 512 for number in range(16)}
    job_id = tenant.submit(metadata=labels)["id"]
    assert tenant.get(job_id)["metadata"] == labels


def test_run_at_delays_the_first_attempt(tenant: Tenant) -> None:
    later = time.time() + 3600
    accepted = tenant.submit(run_at=later)
    assert accepted["status"] == "queued"
    assert accepted["backburner"]["next_attempt_at"] == pytest.approx(later, abs=0.001)
    answer = tenant.http.get(f"/v1/responses/{accepted['id']}")
    assert answer.headers["retry-after"] == "10"  # the longest hint
    assert answer.json()["backburner"]["next_attempt_at"] == accepted["backburner"]["next_attempt_at"]


def test_a_run_at_in_the_past_is_now(tenant: Tenant, worker: FakeWorker) -> None:
    accepted = tenant.submit(run_at=0)
    assert accepted["backburner"]["next_attempt_at"] is None
    assert worker.claim(accepted["id"]).status == "in_progress"


@pytest.mark.parametrize(("run_at", "deadline"), [(90_000, None), (61, 60)])
def test_a_run_at_after_the_deadline_is_refused(tenant: Tenant, run_at: int, deadline: int | None) -> None:
    body = {"model": MODEL, "input": "x", "background": True, "deadline_seconds": deadline}
    answer = tenant.http.post("/v1/responses", json=body | {"run_at": time.time() + run_at})
    assert "deadline" in assert_error(answer, 400, code="invalid_value", param="run_at")


def test_the_deadline_comes_from_the_request_or_else_the_settings(tenant: Tenant, worker: FakeWorker) -> None:
    for asked, expected in ((None, 86_400), (120, 120), (0.5, 0.5)):
        job = worker.job(tenant.submit(deadline_seconds=asked)["id"])
        assert (job.deadline_at - job.created_at).total_seconds() == expected
        assert job.created_at <= datetime.now(UTC)


def test_max_attempts_comes_from_the_request_up_to_the_limit(server: Server, tenant: Tenant) -> None:
    assert [tenant.submit(max_attempts=each)["backburner"]["max_attempts"] for each in (1, 20)] == [1, 20]
    settings = settings_for(server.settings.database, server.settings.redis, max_attempts=2, max_attempts_limit=3)
    with serve(settings) as stricter, a_tenant(stricter) as other:
        assert other.submit()["backburner"]["max_attempts"] == 2
        assert other.submit(max_attempts=3)["backburner"]["max_attempts"] == 3
        answer = other.http.post("/v1/responses", json={"model": MODEL, "input": "x", "max_attempts": 4})
        assert_error(answer, 400, code="integer_above_max_value", param="max_attempts")


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/xml", "multipart/form-data", "\xff"])
def test_the_content_type_does_not_matter(tenant: Tenant, content_type: str | None) -> None:
    headers = [] if content_type is None else [(b"content-type", content_type.encode("latin-1"))]
    body = json.dumps({"model": MODEL, "input": "x", "background": True})
    assert tenant.http.post("/v1/responses", content=body, headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("conversation", "conv_1"),
        ("conversation", {"id": "conv_1"}),
    ],
)
@pytest.mark.parametrize("background", [True, False])
def test_a_feature_that_is_not_supported_is_refused_by_name(
    tenant: Tenant, field: str, value: object, background: bool
) -> None:
    answer = tenant.http.post(
        "/v1/responses", json={"model": MODEL, "input": "x", field: value, "background": background}
    )
    assert f"'{field}'" in assert_error(answer, 400, code="unsupported_parameter", param=field)
    assert tenant.ids() == []


def test_stream_false_does_not_stream(tenant: Tenant) -> None:
    assert tenant.submit(stream=False)["status"] == "queued"
