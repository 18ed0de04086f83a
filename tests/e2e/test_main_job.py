"""The main job, end to end: the official SDK against the API, a real worker and the provider's real HTTP.

The simulator's call log counts the billed calls.
"""

import json
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.e2e.trip import create, error_code, facts, poll, run
from tests.support.stack import API_KEY, MODEL, PROVIDER_KEY, Stack
from tests.support.valkey import ValkeyServer
from tests.support.waiting import await_until


@pytest.fixture(scope="module")
def stack(database_url_of_module: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    data_dir = tmp_path_factory.mktemp("stack")
    with ValkeyServer() as valkey, Stack(database_url_of_module, valkey.url, data_dir) as stack:
        yield stack


@pytest.mark.parametrize(
    ("behaviour", "text", "tokens"),
    [
        ("sample-1 cost=none", "Hi! How’s your day going?", (137, 914, 1051)),  # noqa: RUF001  # the sample's own apostrophe
        ("sample-2 cost=none", "Hello! How can I help you today?", (294, 2520, 2814)),
        ("full text=Forty-two. tokens=640 input-tokens=12 reasoning-tokens=512", "Forty-two.", (12, 640, 652)),
    ],
)
def test_submit_poll_and_read(stack: Stack, behaviour: str, text: str, tokens: tuple[int, int, int]) -> None:
    accepted = create(stack, f"[[sim: {behaviour}]] Hello", metadata={"case": behaviour[:8]})
    assert accepted.status in {"queued", "in_progress"}
    done = poll(stack, accepted)
    assert done.status == "completed"
    assert done.output_text == text
    assert done.usage is not None
    assert (done.usage.input_tokens, done.usage.output_tokens, done.usage.total_tokens) == tokens
    assert done.usage.output_tokens_details.reasoning_tokens >= 0
    assert done.model == {"sample-1": MODEL}.get(behaviour[:8], "o3-pro-2025-06-10")
    assert done.metadata == {"case": behaviour[:8]}
    assert facts(done)["cost_usd"] > 0
    assert facts(done)["cost_source"] == ("price_table" if behaviour.startswith("sample") else "provider")
    assert len(stack.calls(done.id)) == 1


def test_the_providers_own_snippet_works_with_host_and_key_changed(stack: Stack) -> None:
    answer = httpx.post(
        f"{stack.url}/v1/responses",
        headers={"Authorization": f"Bearer {API_KEY}", "Content-Type": "application/json"},
        json={"model": "openai/o3-pro", "input": "Hello"},
        timeout=30,
    )
    assert answer.status_code == 200
    body = answer.json()
    assert body["status"] == "completed"
    assert body["output"][-1]["content"][0]["text"]
    assert body["usage"]["total_tokens"] > 0


def test_what_goes_out_is_what_was_asked_and_reasoning_for_later_turns(stack: Stack) -> None:
    done = run(
        stack,
        "Hello",
        instructions="Be brief.",
        reasoning={"effort": "high"},
        max_output_tokens=1000,
        metadata={"ticket": "4711"},
        store=True,
        extra_body={"temperature_of_tomorrow": 0.5, "priority": 7, "max_attempts": 3, "deadline_seconds": 600},
    )
    [call] = httpx.get(
        f"{stack.provider_url}/_calls", params={"client_request_id_prefix": done.id, "bodies": "true"}
    ).json()["calls"]
    assert json.loads(call["body"]) == {
        "model": MODEL,
        "input": "Hello",
        "instructions": "Be brief.",
        "include": ["reasoning.encrypted_content"],  # without it no later turn could be given the reasoning
        "reasoning": {"effort": "high"},
        "max_output_tokens": 1000,
        "temperature_of_tomorrow": 0.5,
        "truncation": "disabled",
        "stream": False,
    }
    assert call["client_request_id"] == f"{done.id}:1"


def test_429_twice_then_200_costs_three_calls(stack: Stack) -> None:
    done = run(stack, "[[sim: 429 x2, then full]] Hello")
    assert done.status == "completed"
    assert len(stack.calls(done.id)) == 3
    made = stack.attempts(done.id)
    assert [each["outcome"] for each in made] == ["failed", "failed", "completed"]
    assert [each["may_have_been_billed"] for each in made] == [False, False, True]


def test_retry_after_is_a_floor(stack: Stack) -> None:
    done = run(stack, "[[sim: 429 retry-after=2, then full]] Hello")
    first, second = stack.attempts(done.id)
    assert second["started_at"] - first["ended_at"] >= 2


def test_400_costs_one_call_and_keeps_the_providers_words(stack: Stack) -> None:
    done = run(stack, "[[sim: 400-value]] Hello")
    assert done.status == "failed"
    assert error_code(done) == "provider_rejected"
    assert done.error is not None
    assert "nsupported value" in done.error.message
    assert len(stack.calls(done.id)) == 1


def test_an_overflow_fails_when_truncation_is_disabled(stack: Stack) -> None:
    done = run(stack, "[[sim: overflow]] Hello")
    assert done.status == "failed"
    assert error_code(done) == "context_length_exceeded"
    assert len(stack.calls(done.id)) == 1


@pytest.mark.parametrize("behaviour", ["not-json", "truncated", "no-body"])
def test_garbage_ends_as_malformed_answer(stack: Stack, behaviour: str) -> None:
    done = run(stack, f"[[sim: {behaviour}]] Hello", extra_body={"max_attempts": 2})
    assert done.status == "failed"
    assert error_code(done) == "malformed_answer"
    assert len(stack.calls(done.id)) == 2
    assert facts(done)["error"]["kind"] == "malformed_answer"


@pytest.mark.parametrize("behaviour", ["drop", "close", "502", "500", "drop-after-headers"])
def test_at_most_once_is_at_most_once(stack: Stack, behaviour: str) -> None:
    done = run(stack, f"[[sim: {behaviour}]] Hello", extra_body={"on_unknown_outcome": "fail"})
    assert done.status == "failed"
    assert error_code(done) == "outcome_unknown"
    assert len(stack.calls(done.id)) == 1
    assert stack.attempts(done.id)[0]["may_have_been_billed"] is True


def test_at_least_once_gets_through(stack: Stack) -> None:
    done = run(stack, "[[sim: drop, then 500, then 503, then full]] Hello")
    assert done.status == "completed"
    assert len(stack.calls(done.id)) == 4


def test_a_hanging_provider_ends_at_the_jobs_deadline(stack: Stack) -> None:
    done = run(stack, "[[sim: half-open]] Hello", extra_body={"deadline_seconds": 2})
    assert done.status == "failed"
    assert error_code(done) == "deadline_exceeded"
    assert done.completed_at is not None
    assert done.completed_at - done.created_at <= 5
    await_until(
        lambda: stack.calls(done.id)[0]["outcome"] == "client_disconnected", 5, "the connection was never closed"
    )


def test_incomplete_keeps_the_partial_text(stack: Stack) -> None:
    done = run(stack, "[[sim: incomplete text=Once_upon]] Hello")
    assert done.status == "incomplete"
    assert done.incomplete_details is not None
    assert done.incomplete_details.reason == "max_output_tokens"
    assert done.output_text
    assert len(stack.calls(done.id)) == 1


def test_an_empty_answer_is_a_failure_and_its_cost_is_booked(stack: Stack) -> None:
    done = run(stack, "[[sim: empty]] Hello")
    assert done.status == "failed"
    assert error_code(done) == "empty_output"
    assert facts(done)["cost_usd"] > 0
    assert len(stack.calls(done.id)) == 1


def test_cancel_closes_the_providers_connection_within_a_second(stack: Stack) -> None:
    response = create(stack, "[[sim: full delay=60]] Hello")
    await_until(lambda: stack.calls(response.id), 10, "the call never began")
    asked_at = time.time()
    cancelled = stack.openai().responses.cancel(response.id)
    assert cancelled.status == "cancelled"

    def closed() -> dict[str, Any] | None:
        [call] = stack.calls(response.id)
        return call if call["outcome"] == "client_disconnected" else None

    call = await_until(closed, 5, "the connection was never closed")
    assert datetime.fromisoformat(call["finished_at"]).timestamp() - asked_at < 1
    await_until(lambda: stack.attempts(response.id)[0]["outcome"] == "cancelled", 5, "the attempt was never closed")
    assert stack.openai().responses.cancel(response.id).status == "cancelled"


def test_cancelled_while_queued_it_costs_no_call(stack: Stack) -> None:
    response = create(stack, "Hello", extra_body={"run_at": time.time() + 2})
    assert stack.openai().responses.cancel(response.id).status == "cancelled"
    later = run(stack, "Hello", extra_body={"run_at": time.time() + 3})
    assert later.status == "completed"
    assert stack.calls(response.id) == []


def test_a_failed_one_can_be_retried_under_its_id(stack: Stack) -> None:
    done = run(stack, "[[sim: 400, then full]] Hello")
    assert done.status == "failed"
    with stack.http() as http:
        assert http.post(f"/responses/{done.id}/retry").json()["status"] == "queued"
    again = poll(stack, done)
    assert again.status == "completed"
    assert again.error is None
    assert [each["outcome"] for each in stack.attempts(done.id)] == ["failed", "completed"]


def test_a_held_create_answers_with_the_end(stack: Stack) -> None:
    client = stack.openai(max_retries=0)
    assert client.responses.create(model=MODEL, input="[[sim: full text=Held.]] Hi").output_text == "Held."
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model=MODEL, input="[[sim: overflow]] Hi")
    assert refused.value.code == "context_length_exceeded"
    assert refused.value.response.headers["x-should-retry"] == "false"


def test_the_sdk_buys_a_failing_answer_once_although_it_retries(stack: Stack) -> None:
    before = len(stack.calls())
    with pytest.raises(openai.BadRequestError):
        stack.openai().responses.create(model=MODEL, input="[[sim: empty]] Hi")
    assert len(stack.calls()) == before + 1


def test_usage_counts_every_call_by_day_model_and_key(stack: Stack) -> None:
    with stack.http() as http:
        before = sum(row["calls"] for row in http.get("/usage").json()["data"])
        run(stack, "[[sim: 429, then full tokens=100]] Hello")
        rows = http.get("/usage").json()["data"]
    assert sum(row["calls"] for row in rows) == before + 2
    assert {row["model"] for row in rows} == {MODEL}
    assert {row["api_key_name"] for row in rows} == {"bootstrap"}
    assert sum(row["cost_usd"] for row in rows) > 0


def test_no_prompt_answer_or_secret_reaches_a_log(stack: Stack, tmp_path: Path) -> None:
    done = run(stack, "[[sim: full text=the-secret-answer]] the-secret-prompt")
    assert done.output_text == "the-secret-answer"
    run(stack, "[[sim: 400 message=the-secret-refusal]] the-secret-prompt")
    logs = "\n".join(process.output for process in stack.processes if process.name != "simulator")
    assert done.id in logs
    for secret in ("the-secret-answer", "the-secret-prompt", "the-secret-refusal", API_KEY, PROVIDER_KEY):
        assert secret not in logs
