"""The whole table of exchanges and the kinds of failure or answer that they are."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import ErrorKind, Failure
from jobs.job import Answer, CallReport, Cost, CostSource, Usage
from jobs.model_catalog import Model
from jobs.retry_after import LONGEST_RETRY_AFTER
from worker.provider.classify import classify, pause_asked_for

TOO_LARGE = (
    "Request too large for o3-pro in organization org-x on tokens per min (TPM): Limit 30000, Requested 91250."
    " The input or output tokens must be reduced in order to run successfully."
)
NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
MODEL = Model("some/model", input_price=Decimal(1), output_price=Decimal(10))
DATA = Path(__file__).parents[3] / "data"
K = ErrorKind


def report(status: int, body: object = b"", **headers: str) -> CallReport:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return classify(status, named, content, MODEL, now=NOW)


def failure(found: CallReport) -> Failure:
    assert isinstance(found.result, Failure), found.result
    return found.result


def ours(status: int, message: str) -> tuple[int, dict[str, Any]]:
    """Return an error in AI/ML API's own shape."""
    body = {"message": message, "path": "/v1/responses", "requestId": "r1", "statusCode": status, "timestamp": "now"}
    return status, body


def openai(
    status: int, message: str, code: str | None = None, kind: str | None = None, param: str | None = None
) -> tuple[int, dict[str, Any]]:
    return status, {"error": {"message": message, "type": kind, "param": param, "code": code}}


def upstream(status: int, message: str, code: str) -> tuple[int, dict[str, Any]]:
    """Return an upstream's error as AI/ML API forwards it: as text."""
    error = {"type": "error", "error": {"type": "invalid_request_error", "code": code, "message": message}}
    return ours(status, f"{status} {json.dumps(error)}")


REFUSALS = [
    (ours(400, "Body validation error\nExpected string, received number"), K.REJECTED),
    (ours(400, "Unsupported value: 'reasoning.effort' does not support 'high' with this model."), K.REJECTED),
    (
        upstream(400, "Your input exceeds the context window of this model.", "context_length_exceeded"),
        K.CONTEXT_OVERFLOW,
    ),
    (openai(400, "Too long.", code="context_length_exceeded"), K.CONTEXT_OVERFLOW),
    (ours(400, "This model's maximum context length is 200000 tokens."), K.CONTEXT_OVERFLOW),
    (ours(400, "Your input exceeds the context window of this model."), K.CONTEXT_OVERFLOW),
    (ours(400, "prompt is too long: 250000 tokens > 200000 maximum"), K.CONTEXT_OVERFLOW),
    (ours(413, "The request exceeds the model's maximum context length"), K.CONTEXT_OVERFLOW),
    (ours(422, "Please reduce the length of the messages."), K.CONTEXT_OVERFLOW),
    (openai(400, "Invalid 'input': string too long.", code="string_above_max_length"), K.REJECTED),
    (openai(400, "The model `x` does not exist", code="model_not_found"), K.MODEL_UNAVAILABLE),
    (ours(400, "foo/bar is not a valid model ID"), K.MODEL_UNAVAILABLE),
    (ours(400, "The model o3-pro has been deprecated"), K.MODEL_UNAVAILABLE),
    (openai(400, "Unsupported parameter: 'temperature' is not supported with this model."), K.REJECTED),
    (ours(401, "This request requires a valid API key. Create one on the Billing page"), K.BAD_CREDENTIALS),
    (openai(401, "Incorrect API key", code="invalid_api_key"), K.BAD_CREDENTIALS),
    (ours(402, "Payment Required"), K.OUT_OF_CREDIT),
    (ours(403, "You've run out of credits. Please top up your balance"), K.OUT_OF_CREDIT),
    (ours(403, "The key's daily spend limit is reached"), K.OUT_OF_CREDIT),
    (openai(403, "Country, region, or territory not supported", kind="request_forbidden"), K.BAD_CREDENTIALS),
    (ours(403, "Forbidden"), K.BAD_CREDENTIALS),
    (openai(403, "Project does not have access to model `x`", code="model_not_found"), K.MODEL_UNAVAILABLE),
    (ours(403, "Your chosen model requires moderation and your input was flagged"), K.REJECTED),
    (openai(403, "No.", code="content_policy_violation"), K.REJECTED),
    (ours(404, "No endpoints found for this model."), K.MODEL_UNAVAILABLE),
    (ours(404, "Cannot POST /v1/responses"), K.MODEL_UNAVAILABLE),
    (openai(404, "Not here.", param="model"), K.MODEL_UNAVAILABLE),
    (openai(404, "Item with id 'rs_1' not found.", param="input"), K.REJECTED),
    ((405, {}), K.REJECTED),
    ((407, {}), K.UNREACHABLE),
    (ours(408, "Request Timeout"), K.INTERRUPTED),
    ((409, {}), K.REJECTED),
    ((410, {}), K.MODEL_UNAVAILABLE),
    (ours(413, "request entity too large"), K.REJECTED),
    ((415, {}), K.REJECTED),
    (ours(422, "Unprocessable Entity"), K.REJECTED),
    ((425, {}), K.OVERLOADED),
    (ours(429, "Too Many Requests"), K.RATE_LIMITED),
    (ours(429, "Free-tier limit: You've reached your free limit for the hour."), K.RATE_LIMITED),
    (openai(429, "Slow down.", code="rate_limit_exceeded"), K.RATE_LIMITED),
    (openai(429, TOO_LARGE, code="rate_limit_exceeded", kind="tokens"), K.REJECTED),
    (openai(429, "On tokens per min: Limit 30,000, Used 0, Requested 30,001.", code="slow_down"), K.REJECTED),
    (openai(429, "On tokens per min: Limit 30000, Used 29000, Requested 30000.", kind="tokens"), K.RATE_LIMITED),
    (openai(429, "Slow down.", code="slow_down"), K.RATE_LIMITED),
    (openai(429, "No.", kind="insufficient_quota"), K.OUT_OF_CREDIT),
    (openai(429, "No.", code="credit_balance_exhausted"), K.OUT_OF_CREDIT),
    (openai(429, "No.", code="organization_spend_limit_exceeded"), K.OUT_OF_CREDIT),
    (openai(429, "No.", code="project_spend_limit_exceeded"), K.OUT_OF_CREDIT),
    (openai(429, "No.", code="organization_usage_limit_exceeded"), K.OUT_OF_CREDIT),
    (ours(429, "You exceeded your current quota, please check your plan and billing details."), K.OUT_OF_CREDIT),
    ((451, {}), K.REJECTED),
    (ours(500, "Internal server error"), K.SERVER_ERROR),
    (ours(500, "The model is under maintenance, please contact us at help@aimlapi.com."), K.SERVER_ERROR),
    ((501, {}), K.SERVER_ERROR),
    ((502, b"<html><title>Bad Gateway</title></html>"), K.SERVER_ERROR),
    (ours(503, "Service unavailable"), K.OVERLOADED),
    (openai(503, "Busy.", code="server_is_overloaded"), K.OVERLOADED),
    (openai(500, "Busy.", kind="overloaded_error"), K.OVERLOADED),
    (ours(504, "Generation timeout"), K.GATEWAY_TIMEOUT),
    *(((status, b"<html><h1>Error</h1></html>"), K.SERVER_ERROR) for status in (520, 522)),
    *(((status, b"<html><h1>Error</h1></html>"), K.UNREACHABLE) for status in (521, 523, 525, 526, 530)),
    ((524, b"<html><h1>A timeout occurred</h1></html>"), K.GATEWAY_TIMEOUT),
    ((529, {}), K.OVERLOADED),
    ((599, {}), K.SERVER_ERROR),
    *(((status, b""), K.UNREACHABLE) for status in (301, 302, 307, 308)),
    *(((status, b""), K.REJECTED) for status in (300, 303, 304)),
]


@pytest.mark.parametrize(("answer", "kind"), REFUSALS)
def test_refusals(answer: tuple[int, object], kind: ErrorKind) -> None:
    found = report(*answer)
    assert failure(found).kind is kind
    assert failure(found).http_status == found.http_status == answer[0]
    assert failure(found).message
    assert found.raw is None
    assert found.usage is None


def test_a_refusal_keeps_the_providers_words_code_and_field() -> None:
    found = failure(report(*openai(400, "Invalid type.", code="invalid_type", param="tools[0].name")))
    assert (found.message, found.provider_code, found.provider_param) == (
        "Invalid type.",
        "invalid_type",
        "tools[0].name",
    )


def test_a_refusal_without_words_is_named_by_its_status() -> None:
    assert failure(report(500)).message == "The provider answered HTTP 500 without a message."


def test_a_refusal_may_have_cost_something() -> None:
    assert report(500, x_aimlapi_usd_spent="0.5").cost == Cost(500_000, CostSource.PROVIDER)
    assert report(500).cost is None


@pytest.mark.parametrize(
    ("location", "named"),
    [
        ("https://api.example/v2/responses", "https://api.example/v2/responses"),
        ("https://user:secret@api.example/v2?key=secret#secret", "https://api.example/v2"),
        ("/v2/responses", "/v2/responses"),
        ("", "an address that it does not name"),
        ("http://[::1", "an address that it does not name"),
    ],
)
def test_a_redirect_names_its_target_and_no_secret(location: str, named: str) -> None:
    found = failure(report(308, location=location))
    assert named in found.message
    assert "secret" not in found.message


@pytest.mark.parametrize(
    ("headers", "body", "request_id"),
    [
        ({"x-inference-id": "inf", "x-request-id": "req"}, {"requestId": "r1"}, "inf"),
        ({"x-request-id": "req"}, {"requestId": "r1"}, "req"),
        ({}, {"requestId": "r1"}, "r1"),
        ({}, {}, None),
    ],
)
def test_the_providers_id_of_the_call(headers: dict[str, str], body: object, request_id: str | None) -> None:
    found = classify(500, headers, json.dumps(body).encode(), MODEL, now=NOW)
    assert found.provider_request_id == request_id


@pytest.mark.parametrize(
    ("headers", "pause"),
    [
        ({"retry-after": "7"}, timedelta(seconds=7)),
        ({"retry-after": " 0.5 "}, timedelta(milliseconds=500)),
        ({"retry-after": "0"}, timedelta(0)),
        ({"retry-after-ms": "250", "retry-after": "7"}, timedelta(milliseconds=250)),
        ({"retry-after-ms": "soon", "retry-after": "7"}, timedelta(seconds=7)),
        ({"retry-after": "Sun, 22 Nov 2026 12:01:00 GMT"}, timedelta(minutes=1)),
        ({"retry-after": "Sun, 22 Nov 2026 12:01:00 -0000"}, timedelta(minutes=1)),
        ({"retry-after": "Sun, 22 Nov 2026 14:01:00 +0200"}, timedelta(minutes=1)),
        ({"retry-after": "Sun, 22 Nov 2026 11:00:00 GMT"}, timedelta(0)),
        ({"retry-after": "Sun, 22 Nov 2099 12:00:00 GMT"}, LONGEST_RETRY_AFTER),
        ({"retry-after": "1e300"}, LONGEST_RETRY_AFTER),
        ({"retry-after": "1e999999"}, None),
        ({"retry-after-ms": "1e999999"}, None),
        ({"retry-after": "Sun, 22 Nov 99999999999 12:00:00 GMT"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "NaN"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "tomorrow"}, None),
        ({"retry-after": "Mon, 99 Foo 2026"}, None),
        ({"retry-after": ""}, None),
        ({}, None),
    ],
)
def test_retry_after(headers: dict[str, str], pause: timedelta | None) -> None:
    assert pause_asked_for(headers, NOW) == pause
    found = classify(429, headers, b"", MODEL, now=NOW)
    assert failure(found).retry_after == pause


def answer(**fields: Any) -> dict[str, Any]:
    return {
        "id": "resp_1",
        "object": "response",
        "model": "m",
        "usage": {"input_tokens": 3, "output_tokens": 5},
        **fields,
    }


TEXT = {"type": "message", "id": "msg_1", "content": [{"type": "output_text", "text": "Hi"}]}


@pytest.mark.parametrize("number", [1, 2])
def test_the_documented_samples_are_answers(number: int) -> None:
    raw = (DATA / f"sample-answer-{number}.json").read_bytes()
    found = report(200, raw)
    assert isinstance(found.result, Answer)
    assert found.result.cut_reason is None
    assert found.raw == raw
    assert found.usage is not None
    assert found.cost is not None
    assert found.cost.source is CostSource.PRICE_TABLE


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"status": "completed", "output": [TEXT]}, None),
        ({"output": [TEXT]}, None),
        ({"status": "completed", "output": [{"type": "function_call", "name": "f"}]}, None),
        (
            {"status": "incomplete", "output": [TEXT], "incomplete_details": {"reason": "content_filter"}},
            "content_filter",
        ),
        (
            {"status": "incomplete", "output": [], "incomplete_details": {"reason": "max_output_tokens"}},
            "max_output_tokens",
        ),
    ],
)
def test_answers(fields: dict[str, Any], reason: str | None) -> None:
    found = report(200, answer(**fields), x_inference_id="inf_1")
    assert isinstance(found.result, Answer)
    assert found.result.cut_reason == reason
    assert found.usage == Usage(3, 5, 8)
    assert found.cost == Cost(53, CostSource.PRICE_TABLE)
    assert (found.provider_response_id, found.provider_model) == ("resp_1", "m")
    assert found.provider_request_id == "inf_1"


def failed(code: str | None, message: str | None = "No.") -> dict[str, Any]:
    return answer(status="failed", error={"code": code, "message": message}, output=[])


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (failed("server_error"), K.ANSWER_FAILED),
        (failed("rate_limit_exceeded"), K.ANSWER_FAILED),
        (failed("vector_store_timeout"), K.ANSWER_FAILED),
        (failed(None, None), K.ANSWER_FAILED),
        (answer(status="failed", error=None), K.ANSWER_FAILED),
        (failed("invalid_prompt"), K.ANSWER_REFUSED),
        (failed("bio_policy"), K.ANSWER_REFUSED),
        (failed("image_too_large"), K.ANSWER_REFUSED),
        (failed("failed_to_download_image"), K.ANSWER_REFUSED),
        (failed("a_code_from_the_future"), K.ANSWER_REFUSED),
        (failed("context_length_exceeded"), K.CONTEXT_OVERFLOW),
        (failed("invalid_prompt", "Your input exceeds the context window of this model."), K.CONTEXT_OVERFLOW),
        (failed("insufficient_quota"), K.OUT_OF_CREDIT),
        ({"error": {"code": "server_error", "message": "No."}}, K.ANSWER_FAILED),
        ({"error": {"code": 429, "message": "Rate limited"}}, K.RATE_LIMITED),
        ({"error": {"code": 502, "message": "Upstream broke"}}, K.SERVER_ERROR),
        ({"error": {"code": 403, "message": "Out of credits"}}, K.OUT_OF_CREDIT),
        (
            answer(status="completed", error={"code": "invalid_prompt", "message": "No."}, output=[TEXT]),
            K.ANSWER_REFUSED,
        ),
        (answer(status="cancelled", output=[]), K.ANSWER_FAILED),
        (answer(status="queued", output=[]), K.MALFORMED_ANSWER),
        (answer(status="in_progress"), K.MALFORMED_ANSWER),
        (answer(status="completed", output=[]), K.EMPTY_OUTPUT),
        (answer(output=None, output_text=None), K.EMPTY_OUTPUT),
        (answer(status="completed", output=[{"type": "reasoning", "summary": []}]), K.EMPTY_OUTPUT),
        (answer(status="completed", output=[{"type": "web_search_call"}]), K.EMPTY_OUTPUT),
        (b"", K.MALFORMED_ANSWER),
        (b"<html><title>Log in to the network</title></html>", K.MALFORMED_ANSWER),
        (b'{"id": "resp_1", "output": [{"type": "mess', K.MALFORMED_ANSWER),
        ([], K.MALFORMED_ANSWER),
        ({"hello": "world"}, K.MALFORMED_ANSWER),
    ],
)
@pytest.mark.parametrize("status", [200, 201])
def test_unusable_answers(body: object, kind: ErrorKind, status: int) -> None:
    found = report(status, body, retry_after="3")
    assert failure(found).kind is kind
    assert failure(found).http_status == status
    assert failure(found).message
    assert failure(found).retry_after == timedelta(seconds=3)
    assert found.raw is not None


def test_a_failed_answer_keeps_its_reason() -> None:
    found = failure(report(200, failed("invalid_prompt", "Your prompt was refused.")))
    assert (found.provider_code, found.message) == ("invalid_prompt", "Your prompt was refused.")


def test_a_request_above_the_limit_is_rejected_inside_a_200_too() -> None:
    refused = failure(report(*openai(429, TOO_LARGE, code="rate_limit_exceeded")))
    assert refused.message == TOO_LARGE
    assert failure(report(200, failed("rate_limit_exceeded", TOO_LARGE))).kind is K.REJECTED
    assert failure(report(200, failed("server_error", TOO_LARGE))).kind is K.ANSWER_FAILED


@pytest.mark.parametrize("status", [429, 503])
def test_a_delay_in_words_counts_unless_there_is_a_retry_after(status: int) -> None:
    refused = openai(status, "Rate limit reached. Please try again in 1m26.4s.", code="rate_limit_exceeded")
    assert failure(report(*refused)).retry_after == timedelta(seconds=86.4)
    assert failure(report(*refused, retry_after="3")).retry_after == timedelta(seconds=3)


def test_a_delay_in_words_inside_a_200_counts_as_well() -> None:
    found = failure(report(200, failed("rate_limit_exceeded", "Please try again in 644ms.")))
    assert (found.kind, found.retry_after) == (K.ANSWER_FAILED, timedelta(milliseconds=644))


def test_an_unfinished_answer_names_the_background_mode() -> None:
    assert "background" in failure(report(200, answer(status="queued"))).message


def test_an_empty_answer_has_a_cost() -> None:
    found = report(200, answer(status="completed", output=[]))
    assert found.usage == Usage(3, 5, 8)
    assert found.cost == Cost(53, CostSource.PRICE_TABLE)


def test_a_failed_answer_costs_what_the_provider_says_and_nothing_else() -> None:
    assert report(200, failed("server_error")).cost is None
    billed = {**failed("server_error"), "meta": {"usage": {"usd_spent": 0.002}}}
    assert report(200, billed).cost == Cost(2000, CostSource.PROVIDER)


def test_the_headers_give_the_cost_of_a_truncated_answer() -> None:
    assert report(200, b'{"outp', x_aimlapi_usd_spent="0.25").cost == Cost(250_000, CostSource.PROVIDER)


@pytest.mark.parametrize(
    ("answer", "is_unmistakable", "message"),
    [
        (
            openai(401, "Incorrect API key provided: cnryPROV****0000.", code="invalid_api_key"),
            True,
            "API key (HTTP 401)",
        ),
        (openai(403, "Key cnryPROV****0000 lacks it."), False, "Key *** lacks it."),
        (openai(429, "You exceeded your current quota.", code="insufficient_quota"), True, "quota left (HTTP 429)"),
        (openai(403, "not permitted to use the tool"), False, "not permitted to use the tool"),
    ],
)
def test_errors_of_the_account_have_our_words(answer: tuple[int, object], is_unmistakable: bool, message: str) -> None:
    emitted = failure(report(*answer))
    assert emitted.is_unmistakable is is_unmistakable
    assert message in emitted.message
    assert "cnry" not in emitted.message
