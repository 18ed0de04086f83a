"""HTTP errors: the provider's words and body shapes, and the cases that it refuses by itself."""

import json
from datetime import datetime
from uuid import UUID

import pytest

from tests.simulator.provider import Provider

MESSAGES = {
    "400": "Body validation error",
    "400-value": "Unsupported value: ",
    "401": "This request requires a valid API key",
    "403": "You've run out of credits",
    "404": "No endpoints found",
    "408": "Request Timeout",
    "413": "request entity too large",
    "415": "Unsupported Media Type",
    "422": "Unprocessable",
    "425": "Too Early",
    "429": "Too Many Requests",
    "429-free-tier": "Free-tier limit",
    "500": "Internal server error",
    "500-upstream": "Something wrong with the server",
    "500-maintenance": "The model is under maintenance",
    "503": "Service unavailable",
    "504": "Generation timeout",
    "529": "Site is overloaded",
    "599": "Unknown error",
}


@pytest.mark.parametrize("behaviour", MESSAGES)
def test_an_error_has_the_documented_shape(provider: Provider, behaviour: str) -> None:
    response = provider.ask(f"[[sim: {behaviour}]]")
    body = response.json()
    assert response.status_code == int(behaviour[:3])
    assert sorted(body) == ["message", "path", "requestId", "statusCode", "timestamp"]
    assert body["message"].startswith(MESSAGES[behaviour])
    assert body["path"] == "/v1/responses"
    assert int(body["statusCode"]) == response.status_code
    assert str(UUID(body["requestId"])) == body["requestId"]
    assert datetime.fromisoformat(body["timestamp"]).tzinfo is not None
    assert response.headers["x-inference-id"]
    call = provider.only_call()
    assert (call["outcome"], call["billed"], call["http_status"]) == ("refused", False, response.status_code)


@pytest.mark.parametrize("status", [502, 520, 521, 522, 523, 524])
def test_gateways_answer_with_an_html_page(provider: Provider, status: int) -> None:
    response = provider.ask(f"[[sim: {status}]]")
    assert response.status_code == status
    assert response.headers["content-type"].startswith("text/html")
    assert response.text.startswith("<!DOCTYPE html>")


def test_errors_take_a_message_and_retry_after(provider: Provider) -> None:
    response = provider.ask('[[sim: 429 retry-after=7 retry-after-ms=7000 message="Slow down"]]')
    assert response.json()["message"] == "Slow down"
    assert (response.headers["retry-after"], response.headers["retry-after-ms"]) == ("7", "7000")
    assert "retry-after" not in provider.ask("[[sim: 429]]").headers


def test_a_quota_error_has_openais_shape(provider: Provider) -> None:
    error = provider.ask("[[sim: 429-quota]]").json()["error"]
    assert (error["type"], error["code"]) == ("insufficient_quota", "insufficient_quota")
    error = provider.ask("[[sim: 429-quota code=credit_balance_exhausted]]").json()["error"]
    assert error["code"] == "credit_balance_exhausted"


def test_an_overflow_is_nested_text_unless_truncation_is_auto(provider: Provider) -> None:
    response = provider.ask("[[sim: overflow]] Long")
    status, _, nested = response.json()["message"].partition(" ")
    assert (response.status_code, status) == (400, "400")
    assert json.loads(nested)["error"]["code"] == "context_length_exceeded"
    again = provider.ask("[[sim: overflow]] Long", truncation="auto")
    assert (again.status_code, again.json()["status"], again.json()["truncation"]) == (200, "completed", "auto")


@pytest.mark.parametrize("header", [None, "Bearer bad-key", "Bearer", "Basic abc"])
def test_a_call_needs_a_good_key(provider: Provider, header: str | None) -> None:
    headers = {} if header is None else {"authorization": header}
    request = provider.http.build_request("POST", "/v1/responses", json=provider.body())
    del request.headers["authorization"]
    request.headers.update(headers)
    response = provider.http.send(request)
    assert response.status_code == 401
    assert response.json()["message"].startswith("This request requires a valid API key")
    assert provider.only_call()["outcome"] == "refused"


def test_keys_can_become_invalid_and_valid_again(provider: Provider) -> None:
    provider.configure(bad_keys=["test-key"])
    assert provider.ask().status_code == 401
    provider.configure(bad_keys=[])
    assert provider.ask().status_code == 200


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
def test_a_body_must_be_a_json_object(provider: Provider, content: bytes) -> None:
    assert provider.http.post("/v1/responses", content=content).status_code == 400


def test_unknown_fields_are_accepted(provider: Provider) -> None:
    assert provider.ask(service_tier="flex", invented={"a": 1}).status_code == 200


def test_unknown_and_withdrawn_models_are_gone(provider: Provider) -> None:
    response = provider.ask(model="openai/o9")
    assert (response.status_code, response.json()["message"]) == (404, "No endpoints found for openai/o9.")
    assert provider.ask(model="o3-pro").status_code == 200
    provider.configure(withdrawn_models=["openai/o3-pro"])
    assert provider.ask().status_code == 404
    provider.configure(models=["openai/o9"], withdrawn_models=[])
    assert provider.ask(model="openai/o9").json()["model"] == "o9"


def test_a_script_that_does_not_parse_gets_400(provider: Provider) -> None:
    response = provider.ask("[[sim: fulll]]")
    assert response.status_code == 400
    assert response.json()["message"] == "simulator script: unknown behaviour 'fulll'"


def test_a_spent_balance_gets_403(provider: Provider) -> None:
    provider.configure(balance=1.0)
    assert provider.ask("[[sim: full cost=0.6]]").status_code == 200
    assert provider.http.get("/v2/billing").json() == {"current_balance": 0.4, "currency": "USD"}
    assert provider.ask("[[sim: full cost=0.6]]").status_code == 200
    assert provider.ask().status_code == 403


def test_concurrency_above_the_limit_gets_429(provider: Provider) -> None:
    provider.configure(max_concurrency=1)
    with provider.raw("[[sim: full delay=60]]"):
        provider.await_calls(lambda call_log: call_log["summary"]["in_flight"] == 1)
        assert provider.ask().status_code == 429
    provider.await_calls(lambda call_log: call_log["summary"]["in_flight"] == 0)
    assert provider.ask().status_code == 200
