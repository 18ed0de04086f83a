"""Requests as frameworks really write them: the API takes them, and a strict provider gets its documented form.

Each body goes through the API, a real worker and real HTTP; the simulator checks it by the provider's schema.
"""

import gzip
import json
import re
from collections.abc import Iterator
from typing import Any, Final

import httpx
import pytest

from tests.support.stack import API_KEY, MODEL, Stack
from tests.support.valkey import ValkeyServer

Json = dict[str, Any]

MADE_UP: Final = re.compile("(msg|rs|ws)_[0-9a-f]{33,}")
USER: Final[Json] = {"role": "user", "content": "And now?"}
TEXT: Final[Json] = {"type": "input_text", "text": "a"}
IMAGE: Final[Json] = {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo="}
CALL: Final[Json] = {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"}
FUNCTION: Final[Json] = {"type": "function", "name": "f"}
NO_PARAMETERS: Final[Json] = {"type": "object", "properties": {}}
ANSWER: Final[Json] = {"role": "assistant", "content": [{"type": "output_text", "text": "b"}]}
WHOLE_ANSWER: Final[Json] = {
    "type": "message",
    "role": "assistant",
    "status": "completed",
    "content": [{"type": "output_text", "text": "b", "annotations": []}],
}

REASONING: Final[Json] = {"type": "reasoning", "summary": [], "encrypted_content": "gAAAA"}

TO_A_STRICT_PROVIDER: Final[dict[str, tuple[Json, Json]]] = {
    "function without strict": (
        {"tools": [{**FUNCTION, "parameters": {"type": "object"}}]},
        {"tools": [{**FUNCTION, "parameters": {"type": "object"}, "strict": False}]},
    ),
    "function with nulls": (
        {"tools": [{**FUNCTION, "strict": None, "parameters": None, "description": None}]},
        {"tools": [{**FUNCTION, "parameters": NO_PARAMETERS, "strict": False}]},
    ),
    "text without format": ({"text": {}}, {"text": {"format": {"type": "text"}}}),
    "verbosity alone": (
        {"text": {"verbosity": "low"}},
        {"text": {"format": {"type": "text"}, "verbosity": "low"}},
    ),
    "null text": ({"text": None}, {"text": None}),
    "null format": ({"text": {"format": None}}, {"text": {"format": {"type": "text"}}}),
    "null description of a format": (
        {"text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "description": None}}},
        {"text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}}},
    ),
    "an answer given back": ({"input": [ANSWER, USER]}, {"input": [WHOLE_ANSWER, USER]}),
    "an answer of nulls": (
        {
            "input": [
                {
                    **ANSWER,
                    "id": None,
                    "status": None,
                    "content": [{"type": "output_text", "text": "b", "annotations": None, "logprobs": None}],
                },
                USER,
            ]
        },
        {"input": [WHOLE_ANSWER, USER]},
    ),
    "reasoning without id": (
        {"input": [{**REASONING, "content": None, "status": None}, WHOLE_ANSWER, USER]},
        {"input": [REASONING, WHOLE_ANSWER, USER]},
    ),
    "reasoning that is lost": (
        {"input": [{"type": "reasoning", "id": "rs_1", "summary": []}, WHOLE_ANSWER, USER]},
        {"input": [WHOLE_ANSWER, USER]},
    ),
    "a result of texts": (
        {"input": [CALL, {"type": "function_call_output", "call_id": "call_1", "output": [TEXT, TEXT]}]},
        {"input": [CALL, {"type": "function_call_output", "call_id": "call_1", "output": "a\na"}]},
    ),
    "an image of original detail": (
        {"input": [{"role": "user", "content": [TEXT, {**IMAGE, "detail": "original"}]}]},
        {"input": [{"role": "user", "content": [TEXT, {**IMAGE, "detail": "high"}]}]},
    ),
    "an image of null detail": (
        {"input": [{"role": "user", "content": [TEXT, {**IMAGE, "detail": None}]}]},
        {"input": [{"role": "user", "content": [TEXT, IMAGE]}]},
    ),
    "a hosted call without id": (
        {"input": [{"type": "web_search_call"}, WHOLE_ANSWER, USER]},
        {"input": [{"type": "web_search_call", "status": "completed"}, WHOLE_ANSWER, USER]},
    ),
    "no input beside a prompt": (
        {"input": None, "prompt": {"id": "pmpt_1"}},
        {"input": "", "prompt": {"id": "pmpt_1"}},
    ),
    "every include": (
        {
            "include": [
                "file_search_call.results",
                "web_search_call.results",
                "web_search_call.action.sources",
                "message.input_image.image_url",
                "computer_call_output.output.image_url",
                "code_interpreter_call.outputs",
                "reasoning.encrypted_content",
                "message.output_text.logprobs",
                "telepathy.range",
            ]
        },
        {
            "include": [
                "message.input_image.image_url",
                "computer_call_output.output.image_url",
                "code_interpreter_call.outputs",
                "reasoning.encrypted_content",
            ]
        },
    ),
    "allowed tools": (
        {
            "tools": [FUNCTION, {"type": "function", "name": "g"}],
            "tool_choice": {"type": "allowed_tools", "tools": [{"type": "function", "name": "f"}]},
        },
        {"tools": [{**FUNCTION, "parameters": NO_PARAMETERS, "strict": False}], "tool_choice": "auto"},
    ),
}

AS_IT_CAME: Final[dict[str, Json]] = {
    "a result with an image": {
        "input": [CALL, {"type": "function_call_output", "call_id": "call_1", "output": [TEXT, IMAGE]}]
    },
    "items that nobody knows": {
        "input": [
            {"type": kind, "id": "x_1", "payload": [None]}
            for kind in ("agent_message", "multi_agent_call", "additional_tools", "compaction", "program")
        ]
        + [USER]
    },
    "tools that nobody knows": {"tools": [{"type": "telepathy", "range": 5}]},
    "an MCP connector": {"tools": [{"type": "mcp", "server_label": "d", "connector_id": "connector_dropbox"}]},
    "parts that nobody knows": {"input": [{"role": "user", "content": [TEXT, {"type": "input_smell", "smell": "x"}]}]},
}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    data_dir = tmp_path_factory.mktemp("stack")
    with ValkeyServer() as valkey, Stack(f"sqlite:///{data_dir}/backburner.db", valkey.url, data_dir) as stack:
        yield stack


def answered(stack: Stack, rules: str, body: Json) -> tuple[Json, Json]:
    """Return the response, and the body that the provider got for it."""
    stack.set_provider(rules=rules)
    with stack.http() as http:
        answer = http.post("/responses", json={"model": MODEL, "input": "Hello", **body})
    assert answer.status_code == 200, answer.text
    response: Json = answer.json()
    query = {"client_request_id_prefix": response["id"], "bodies": "true"}
    [call] = httpx.get(f"{stack.provider_url}/_calls", params=query).json()["calls"]
    assert call["http_status"] == 200
    return response, json.loads(call["body"])


def without_made_up_ids(given: Any) -> Any:
    if isinstance(given, list):
        return [without_made_up_ids(each) for each in given]
    if not isinstance(given, dict):
        return given
    kept = {name: value for name, value in given.items() if name != "id" or not MADE_UP.fullmatch(value)}
    return {name: without_made_up_ids(value) for name, value in kept.items()}


@pytest.mark.parametrize("name", TO_A_STRICT_PROVIDER)
def test_what_openai_takes_is_taken_and_a_strict_provider_takes_it_too(stack: Stack, name: str) -> None:
    body, expected = TO_A_STRICT_PROVIDER[name]
    response, sent = answered(stack, "strict", body)
    assert response["status"] == "completed"
    assert {field: without_made_up_ids(sent.get(field)) for field in expected} == expected


@pytest.mark.parametrize("name", AS_IT_CAME)
def test_what_has_no_documented_form_goes_out_as_it_came(stack: Stack, name: str) -> None:
    body = AS_IT_CAME[name]
    response, sent = answered(stack, "lenient", body)
    assert response["status"] == "completed"
    assert {field: sent[field] for field in body} == body


def test_a_tool_is_echoed_with_every_key_of_the_sdks_type(stack: Stack) -> None:
    response, _ = answered(stack, "strict", {"tools": [FUNCTION]})
    assert response["tools"] == [{**FUNCTION, "description": None, "parameters": None, "strict": None}]


def test_a_compressed_body_on_a_path_with_a_slash_at_its_end_is_a_request_like_any_other(stack: Stack) -> None:
    body = json.dumps({"model": MODEL, "input": "[[sim: full text=Unpacked.]] Hello"}).encode()
    headers = {"authorization": f"Bearer {API_KEY}", "content-encoding": "gzip", "content-type": "application/json"}
    answer = httpx.post(f"{stack.base_url}/responses/", content=gzip.compress(body), headers=headers, timeout=30)
    assert answer.status_code == 200
    assert answer.json()["output"][-1]["content"][0]["text"] == "Unpacked."


@pytest.mark.parametrize("rules", ["strict", "lenient"])
@pytest.mark.parametrize("include", [[], ["reasoning.encrypted_content"]], ids=["bare", "encrypted"])
def test_a_tool_loop_by_previous_response_id_sends_nothing_that_a_provider_refuses(
    stack: Stack, rules: str, include: list[str]
) -> None:
    tools = [{**FUNCTION, "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}]
    asked = {"role": "user", "content": [TEXT, IMAGE, {"type": "input_text", "text": "[[sim: tool-call name=f]] Go."}]}
    first, _ = answered(stack, rules, {"input": [asked], "tools": tools, "include": include})
    [call] = [item for item in first["output"] if item["type"] == "function_call"]
    result = {
        "type": "function_call_output",
        "call_id": call["call_id"],
        "output": [{"type": "input_text", "text": "9"}],
    }
    follow_up = {"previous_response_id": first["id"], "input": [result], "tools": tools, "include": include}
    second, sent = answered(stack, rules, follow_up)
    assert second["status"] == "completed"
    kinds = [item.get("type", "message") for item in sent["input"]]
    assert kinds == ["message", "reasoning", "function_call", "function_call_output"]
    shown = [item for item in first["output"] if item["type"] == "reasoning"]
    assert all(("encrypted_content" in item) == bool(include) for item in shown)
    assert IMAGE in sent["input"][0]["content"]
    assert sent["input"][-2]["id"] == call["id"]
    third, _ = answered(stack, rules, {"previous_response_id": second["id"], "input": "Thanks."})
    assert third["status"] == "completed"


def test_an_item_that_nobody_documents_does_not_end_the_conversation_with_a_strict_provider(stack: Stack) -> None:
    first, _ = answered(stack, "strict", {"input": "[[sim: unknown-items text=New.]] Hello"})
    assert len(first["output"]) == 3
    second, sent = answered(stack, "strict", {"previous_response_id": first["id"], "input": "More?"})
    assert second["status"] == "completed"
    assert [item["type"] for item in sent["input"]] == ["message", "reasoning", "message", "message"]
