"""The content of a 200: the documented samples byte for byte, a full answer, and each known oddity."""

import json
from typing import Any

import pytest

from tests.simulator.provider import ROOT, Provider

TOOL = {
    "type": "function",
    "name": "get_weather",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "unit": {"enum": ["C", "F"]}},
        "required": ["city", "unit"],
        "additionalProperties": False,
    },
}


def message_of(answer: dict[str, Any]) -> dict[str, Any]:
    (message,) = (item for item in answer["output"] if item["type"] == "message")
    found: dict[str, Any] = message
    return found


@pytest.mark.parametrize("number", [1, 2])
def test_the_documented_samples_are_sent_byte_for_byte(provider: Provider, number: int) -> None:
    sample = ROOT / "tests" / "data" / f"sample-answer-{number}.json"
    assert provider.ask(f"[[sim: sample-{number}]]").content == sample.read_bytes()


def test_a_full_answer_is_complete_and_quotes_the_prompt(provider: Provider) -> None:
    response = provider.ask(
        "Why is the sky blue?",
        call_id="job_1:1",
        instructions="Be brief.",
        max_output_tokens=500,
        reasoning={"effort": "high"},
        truncation="auto",
    )
    answer = response.json()
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json; charset=utf-8"
    assert answer["status"] == "completed"
    assert answer["model"] == "o3-pro-2025-06-10"
    assert [item["type"] for item in answer["output"]] == ["reasoning", "message"]
    text = message_of(answer)["content"][0]["text"]
    assert text == answer["output_text"]
    assert '"Why is the sky blue?"' in text
    echoed = {name: answer[name] for name in ("instructions", "max_output_tokens", "truncation", "reasoning")}
    assert echoed == {
        "instructions": "Be brief.",
        "max_output_tokens": 500,
        "truncation": "auto",
        "reasoning": {"effort": "high", "summary": None},
    }
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert usage["output_tokens_details"]["reasoning_tokens"] == 64
    assert response.headers["x-inference-id"]
    assert response.headers["x-client-request-id"] == "job_1:1"


def test_cost_follows_the_price_and_is_in_body_and_headers(provider: Provider) -> None:
    response = provider.ask("[[sim: full input-tokens=1000 tokens=2000]]")
    usd = (1000 * 27.508 + 2000 * 110.032) / 1_000_000
    assert response.json()["meta"]["usage"] == {"credits_used": round(usd * 2_000_000), "usd_spent": round(usd, 9)}
    assert response.headers["x-aimlapi-usd-spent"] == f"{usd:.9f}"
    assert response.headers["x-aimlapi-credits-used"] == str(round(usd * 2_000_000))


@pytest.mark.parametrize(
    ("cost", "in_body", "in_headers"),
    [("both", True, True), ("body", True, False), ("headers", False, True), ("none", False, False)],
)
def test_cost_can_be_left_out(provider: Provider, cost: str, *, in_body: bool, in_headers: bool) -> None:
    response = provider.ask(f"[[sim: full cost={cost}]]")
    assert ("meta" in response.json()) is in_body
    assert ("x-aimlapi-usd-spent" in response.headers) is in_headers
    provider.configure(cost=cost)
    assert ("x-aimlapi-usd-spent" in provider.ask().headers) is in_headers


def test_cost_can_be_set(provider: Provider) -> None:
    response = provider.ask("[[sim: full cost=1.25]]")
    assert response.headers["x-aimlapi-usd-spent"] == "1.250000000"
    assert provider.only_call()["cost_usd"] == 1.25


def test_an_invalid_client_request_id_is_ignored(provider: Provider) -> None:
    for call_id in ("has space", "a/b", "x" * 129):
        assert "x-client-request-id" not in provider.ask(call_id=call_id).headers
    assert [call["client_request_id"] for call in provider.calls()] == [None] * 3


def test_structured_output_follows_the_schema(provider: Provider) -> None:
    schema = {
        "type": "object",
        "properties": {
            "steps": {"type": "array", "items": {"$ref": "#/$defs/step"}},
            "note": {"anyOf": [{"type": "null"}, {"type": "string", "maxLength": 5}]},
            "score": {"type": "integer", "minimum": 3},
            "at": {"type": "string", "format": "date-time"},
        },
        "required": ["steps", "note", "score", "at"],
        "$defs": {
            "step": {
                "type": "object",
                "properties": {
                    "done": {"type": "boolean"},
                    "next": {"anyOf": [{"$ref": "#/$defs/step"}, {"type": "null"}]},
                },
                "required": ["done", "next"],
            }
        },
    }
    form = {"format": {"type": "json_schema", "name": "plan", "schema": schema}}
    value = json.loads(provider.ask("Plan it", text=form).json()["output_text"])
    assert value["score"] == 3
    assert len(value["note"]) == 5
    assert value["steps"][0]["done"] is True
    depth, step = 0, value["steps"][0]
    while step is not None:
        depth, step = depth + 1, step["next"]
    assert depth > 1
    free = provider.ask("Anything", text={"format": {"type": "json_object"}}).json()["output_text"]
    assert "Anything" in json.loads(free)["answer"]


@pytest.mark.parametrize(
    ("prompt", "fields"),
    [
        ("[[sim: tool-call]]", {}),
        ("Hello", {"tool_choice": "required"}),
        ("Hello", {"tool_choice": {"type": "function", "name": "get_weather"}}),
    ],
)
def test_a_function_call_fits_the_tool(provider: Provider, prompt: str, fields: dict[str, Any]) -> None:
    answer = provider.ask(prompt, tools=[TOOL], **fields).json()
    call = answer["output"][1]
    assert (call["type"], call["name"]) == ("function_call", "get_weather")
    assert json.loads(call["arguments"]) == {"city": "example", "unit": "C"}


def test_the_turn_after_a_function_call_is_answered(provider: Provider) -> None:
    asked = {"role": "user", "content": "[[sim: tool-call name=look]] Weather?"}
    call = provider.ask([asked]).json()["output"][1]
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "sunny"}
    answer = provider.ask([asked, call, result]).json()
    assert '"sunny"' in answer["output_text"]


def check_refusal(answer: dict[str, Any]) -> bool:
    return (message_of(answer)["content"][0]["type"], answer["output_text"]) == ("refusal", "")


ODDITIES: dict[str, Any] = {
    "refusal": check_refusal,
    "json": lambda answer: "answer" in json.loads(answer["output_text"]),
    "many-items items=3": lambda answer: [i["type"] for i in answer["output"]] == ["reasoning", "message"] * 3,
    "unknown-items": lambda answer: answer["output"][1]["type"] == "future_call",
    "huge kb=300": lambda answer: len(answer["output_text"]) == 300 * 1024,
    "incomplete": lambda answer: (
        answer["status"] == "incomplete"
        and answer["incomplete_details"] == {"reason": "max_output_tokens"}
        and message_of(answer)["status"] == "incomplete"
        and answer["output_text"] != ""
    ),
    "incomplete reason=content_filter text=Half": lambda answer: (
        answer["incomplete_details"] == {"reason": "content_filter"} and answer["output_text"] == "Half"
    ),
    "failed": lambda answer: (
        (answer["status"], answer["error"]["code"], answer["usage"], answer["output"])
        == ("failed", "server_error", None, [])
    ),
    'failed code=invalid_prompt message="no"': lambda answer: (
        answer["error"] == {"code": "invalid_prompt", "message": "no"}
    ),
    "empty": lambda answer: answer["status"] == "completed" and [i["type"] for i in answer["output"]] == ["reasoning"],
    "output-null": lambda answer: answer["output"] is None and "Hi" in answer["output_text"],
    "no-status": lambda answer: "status" not in answer and "Hi" in answer["output_text"],
    "in-progress-item": lambda answer: (answer["status"], message_of(answer)["status"]) == ("completed", "in_progress"),
    "unfinished": lambda answer: answer["status"] == "in_progress" and answer["output"] == [],
    "unfinished status=queued": lambda answer: answer["status"] == "queued",
    "no-usage": lambda answer: answer["usage"] is None and answer["status"] == "completed",
    "malformed-usage": lambda answer: answer["usage"]["input_tokens"] == "137",
    "full text=Forty-two tokens=9": lambda answer: (
        (answer["output_text"], answer["usage"]["output_tokens"]) == ("Forty-two", 9)
    ),
}


@pytest.mark.parametrize("step", ODDITIES)
def test_each_answer_matches_its_name(provider: Provider, step: str) -> None:
    response = provider.ask(f"[[sim: {step}]] Hi")
    assert response.status_code == 200
    assert ODDITIES[step](response.json())
    call = provider.only_call()
    assert call["outcome"] == "answered"
    assert call["billed"] is (not step.startswith(("failed", "unfinished")))
    assert call["response_id"] == response.json()["id"]


def test_odd_texts_and_endless_schemas_are_answered(provider: Provider) -> None:
    lone_surrogate = b'{"model": "openai/o3-pro", "input": "\\ud83d", "instructions": "\\ud83d"}'
    assert provider.http.post("/v1/responses", content=lone_surrogate).status_code == 200
    assert provider.http.post("/v1/responses", content=b"[" * 100_000).status_code == 400
    endless = {"type": "object", "properties": {"a": {"$ref": "#"}, "b": {"$ref": "#"}}, "required": ["a", "b"]}
    form = {"format": {"type": "json_schema", "name": "tree", "schema": endless}}
    assert json.loads(provider.ask(text=form).json()["output_text"]).keys() == {"a", "b"}


def test_delay_is_kept(provider: Provider) -> None:
    assert provider.ask("[[sim: full delay=0.15]]").elapsed.total_seconds() >= 0.15
    provider.configure(delay=0.15, jitter=0)
    assert provider.ask().elapsed.total_seconds() >= 0.15


def test_one_connection_serves_pipelined_requests_in_order(provider: Provider) -> None:
    with provider.raw("[[sim: full text=one delay=0.05]]") as call:
        body = json.dumps(provider.body("[[sim: full text=two]]")).encode()
        call.socket.sendall(
            b"POST /v1/responses HTTP/1.1\r\nHost: s\r\nAuthorization: Bearer k\r\nConnection: close\r\n"
            b"Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        )
        got, reset = call.read_to_end()
    assert not reset
    assert 0 < got.index(b'"output_text":"one"') < got.index(b'"output_text":"two"')


def test_bytes_that_are_not_http_are_refused(provider: Provider) -> None:
    with provider.raw() as call:
        call.read_until(b"}")
        call.socket.sendall(b"\x00\x01\x02\r\n\r\n")
        got, _ = call.read_to_end()
    assert b"HTTP/1.1 400 Bad Request" in got


def test_unknown_paths_are_404(provider: Provider) -> None:
    assert provider.http.get("/_health").json() == {"status": "ok"}
    missing = provider.http.get("/v1/nothing")
    assert (missing.status_code, missing.json()["message"]) == (404, "Cannot GET /v1/nothing")
