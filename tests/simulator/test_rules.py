"""Valid request bodies: by rules as lenient as OpenAI's, and by exactly AI/ML API's documented schema."""

from typing import Any, Final

import pytest

from tests.simulator.provider import Provider

Json = dict[str, Any]

USER: Final = {"role": "user", "content": "Hello"}
CALL: Final = {"type": "function_call", "call_id": "call_1", "name": "look", "arguments": "{}"}
OUTPUT: Final = {"type": "function_call_output", "call_id": "call_1", "output": "sunny"}
FUNCTION: Final = {"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": False}
TEXT: Final = {"type": "output_text", "text": "b", "annotations": []}
WHOLE: Final = {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": [TEXT]}


def given(*items: Json) -> Json:
    return {"input": [USER, *items]}


def part(**fields: Any) -> Json:
    return given({"role": "user", "content": [fields]})


def json_schema(**fields: Any) -> Json:
    return {"text": {"format": {"type": "json_schema", "name": "plan", "schema": {}, **fields}}}


TAKEN_BY_BOTH: Final[dict[str, Json]] = {
    "a text": {},
    "messages": given({"role": "developer", "content": [{"type": "input_text", "text": "Hi"}]}),
    "a whole answer given back": given(WHOLE, USER),
    "a short answer given back": given({"role": "assistant", "content": "b"}, USER),
    "a call and its output": given(CALL, OUTPUT),
    "a whole reasoning item": given({"type": "reasoning", "id": "rs_1", "summary": []}, WHOLE),
    "a function": {"tools": [FUNCTION]},
    "unknown fields": {"service_tier": "flex", "invented": {"a": 1}},
    "null where the schema has it": {"instructions": None, "include": None, "reasoning": None, "stream": None},
    "an item reference": given({"type": "item_reference", "id": "fc_1"}, OUTPUT),
    "an output after a response that is not shown": {"previous_response_id": "resp_1", "input": [OUTPUT]},
    "a call after a response that is not shown": {"previous_response_id": "resp_1", "input": [USER, CALL]},
}

TAKEN_BY_LENIENT_ONLY: Final[dict[str, tuple[Json, str]]] = {
    "no input beside a prompt": ({"input": ..., "prompt": {"id": "pmpt_1"}}, "Required at 'input'"),
    "null input beside a response": (
        {"input": None, "previous_response_id": "resp_1"},
        "Invalid value at 'input'. Expected string | array, received null",
    ),
    "null background": ({"background": None}, "Invalid value at 'background'. Expected boolean, received null"),
    "null truncation": ({"truncation": None}, "Invalid value at 'truncation'. Expected 'auto' | 'disabled'"),
    "null tools": ({"tools": None}, "Invalid value at 'tools'. Expected array"),
    "null tool_choice": (
        {"tool_choice": None},
        "Invalid value at 'tool_choice'. Expected 'none' | 'auto' | 'required'",
    ),
    "null text": ({"text": None}, "Invalid value at 'text'. Expected object"),
    "empty text": ({"text": {}}, "Required at 'text.format'"),
    "verbosity alone": ({"text": {"verbosity": "low"}}, "Required at 'text.format'"),
    "null format": ({"text": {"format": None}}, "Invalid value at 'text.format'"),
    "empty format": ({"text": {"format": {}}}, "Invalid value at 'text.format'"),
    "more in a format": (
        {"text": {"format": {"type": "text", "later": 1}}},
        "Unrecognized keys at 'text.format': 'later'",
    ),
    "null description": (
        json_schema(description=None),
        "Invalid value at 'text.format.description'. Expected string, received null",
    ),
    "null metadata of a tool": (
        {"tools": [{**FUNCTION, "description": None}]},
        "Invalid value at 'tools[0].description'. Expected string, received null",
    ),
    "no strict": (
        {"tools": [{"type": "function", "name": "look", "parameters": {}}]},
        "Required at 'tools[0].strict'. Expected boolean, received undefined",
    ),
    "null strict": ({"tools": [{**FUNCTION, "strict": None}]}, "Invalid value at 'tools[0].strict'. Expected boolean"),
    "null parameters": (
        {"tools": [{**FUNCTION, "parameters": None}]},
        "Invalid value at 'tools[0].parameters'. Expected object, received null",
    ),
    "a custom tool": (
        {"tools": [{"type": "custom", "name": "look"}]},
        "Invalid value at 'tools[0]'. Expected 'function'",
    ),
    "a tool of a later kind": ({"tools": [{"type": "later"}]}, "Invalid value at 'tools[0]'"),
    "a connector": (
        {"tools": [{"type": "mcp", "server_label": "mail", "connector_id": "connector_gmail"}]},
        "Required at 'tools[0].server_url'. Expected string",
    ),
    "allowed tools": (
        {"tools": [FUNCTION], "tool_choice": {"type": "allowed_tools", "tools": [FUNCTION]}},
        "Invalid value at 'tool_choice'",
    ),
    "a later effort": (
        {"reasoning": {"effort": "max"}},
        "Invalid value at 'reasoning.effort'. Expected 'low' | 'medium' | 'high', received \"max\"",
    ),
    "a part of an answer given back": (
        given({"role": "assistant", "content": [{"type": "output_text", "text": "b"}]}),
        "Invalid value at 'input[1].content[0]'. Expected 'input_text' | 'input_image' | 'input_file'",
    ),
    "null annotations": (
        given({**WHOLE, "content": [{**TEXT, "annotations": None}]}),
        "Invalid value at 'input[1].content[0].annotations'. Expected array, received null",
    ),
    "reasoning without an id": (
        given({"type": "reasoning", "summary": []}),
        "Required at 'input[1].id'. Expected string, received undefined",
    ),
    "reasoning with null status": (
        given({"type": "reasoning", "id": "rs_1", "summary": [], "content": None, "status": None}),
        "Invalid value at 'input[1].status'",
    ),
    "an output of parts": (
        given(CALL, {**OUTPUT, "output": [{"type": "input_text", "text": "sunny"}]}),
        "Invalid value at 'input[2].output'. Expected string, received [",
    ),
    "an original image": (
        part(type="input_image", image_url="data:,", detail="original"),
        "Invalid value at 'input[1].content[0].detail'. Expected 'high' | 'low' | 'auto', received \"original\"",
    ),
    "a part of a later kind": (part(type="input_video", video="x"), "Invalid value at 'input[1].content[0]'"),
    "a web search without an id": (
        given({"type": "web_search_call", "status": "completed"}),
        "Required at 'input[1].id'. Expected string",
    ),
    **{
        f"an item of the kind {kind}": (given({"type": kind}), "Invalid value at 'input[1]'. Expected 'message' | ")
        for kind in ("agent_message", "multi_agent_call", "additional_tools", "compaction", "program")
    },
    **{
        f"including {name}": ({"include": [name]}, "Invalid value at 'include[0]'. Expected 'message.input_image")
        for name in (
            "file_search_call.results",
            "web_search_call.results",
            "web_search_call.action.sources",
            "message.output_text.logprobs",
            "later.kind",
        )
    },
}

REFUSED_BY_BOTH: Final[dict[str, tuple[Json, str]]] = {
    "no model": ({"model": ...}, "Required at 'model'. Expected string, received undefined"),
    "a number for a model": ({"model": 7}, "Invalid value at 'model'. Expected string, received 7"),
    "an object for the input": ({"input": {}}, "Invalid value at 'input'. Expected string"),
    "a text among the items": ({"input": ["a"]}, "Invalid value at 'input[0]'. Expected"),
    "a number for a flag": ({"stream": 1}, "Invalid value at 'stream'. Expected"),
    "few tokens": (
        {"max_output_tokens": 15},
        "Invalid value at 'max_output_tokens'. Expected integer greater than or equal to 16, received 15",
    ),
    "bogus truncation": (
        {"truncation": "bogus"},
        "Invalid value at 'truncation'. Expected 'auto' | 'disabled', received \"bogus\"",
    ),
    "numbers to include": ({"include": [7]}, "Invalid value at 'include"),
    "a number for an effort": ({"reasoning": {"effort": 7}}, "Invalid value at 'reasoning.effort'. Expected"),
    "a format without its schema": (
        {"text": {"format": {"type": "json_schema", "name": "x"}}},
        "Required at 'text.format.schema'. Expected object, received undefined",
    ),
    "a tool without a type": ({"tools": [{}]}, ""),
    "a function without a name": ({"tools": [{"type": "function", "parameters": {}, "strict": False}]}, "Required at"),
    "a prompt without an id": ({"prompt": {}}, "Required at 'prompt.id'. Expected string, received undefined"),
    "no content": (given({"role": "user"}), "Required at 'input[1].content'. Expected string"),
    "no role": (given({"type": "message", "content": "Hi"}), "Required at 'input[1].role'. Expected"),
    "null content": (given({"role": "user", "content": None}), ""),
    "a number for a text": (
        part(type="input_text", text=7),
        "Invalid value at 'input[1].content[0].text'. Expected string",
    ),
    "a list for a type": (part(type=["input_text"], text="Hi"), "Invalid value at 'input[1].content[0]"),
    "a part without its text": (part(type="input_text"), "Required at 'input[1].content[0].text'. Expected string"),
    "a call without all": (given({"type": "function_call", "call_id": "a"}), "Required at 'input[1]."),
    "arguments that are no text": (
        given({**CALL, "arguments": {}}),
        "Invalid value at 'input[1].arguments'. Expected string, received {}",
    ),
    "an output without its call_id": (
        given({"type": "function_call_output", "output": "sunny"}),
        "Required at 'input[1].call_id'. Expected string, received undefined",
    ),
}

ALONE: Final[dict[str, tuple[Json, str]]] = {
    "an output without a call": (given(OUTPUT), "No tool call found for function call output with call_id call_1."),
    "an output before its call": (
        given(OUTPUT, CALL),
        "No tool call found for function call output with call_id call_1.",
    ),
    "an output of another call": (
        given(CALL, {**OUTPUT, "call_id": "call_2"}),
        "No tool call found for function call output with call_id call_2.",
    ),
    "a call without an output": (given(CALL, USER), "No tool output found for function call call_1."),
    "one of two calls without an output": (
        given(CALL, {**CALL, "call_id": "call_2"}, OUTPUT),
        "No tool output found for function call call_2.",
    ),
}

ALONE_AND_LENIENT: Final[dict[str, tuple[Json, str]]] = {
    "a custom output": (
        given({"type": "custom_tool_call_output", "call_id": "call_1", "output": "x"}),
        "No tool call found for custom tool call output with call_id call_1.",
    ),
    "a custom call": (
        given({"type": "custom_tool_call", "call_id": "call_1", "name": "look", "input": "x"}),
        "No tool output found for custom tool call call_1.",
    ),
    "a computer's output": (
        given({"type": "computer_call_output", "call_id": "call_1", "output": {"type": "computer_screenshot"}}),
        "No tool call found for computer call output with call_id call_1.",
    ),
}


def post(provider: Provider, rules: str, changes: Json) -> tuple[int, str]:
    provider.configure(rules=rules)
    body = {name: value for name, value in {**provider.body(), **changes}.items() if value is not ...}
    response = provider.http.post("/v1/responses", json=body)
    return response.status_code, response.json().get("message", "")


@pytest.mark.parametrize("rules", ["lenient", "strict"])
@pytest.mark.parametrize("name", TAKEN_BY_BOTH)
def test_both_accept(provider: Provider, name: str, rules: str) -> None:
    assert post(provider, rules, TAKEN_BY_BOTH[name]) == (200, "")


@pytest.mark.parametrize("name", TAKEN_BY_LENIENT_ONLY)
def test_only_lenient_rules_accept(provider: Provider, name: str) -> None:
    changes, detail = TAKEN_BY_LENIENT_ONLY[name]
    assert post(provider, "lenient", changes) == (200, "")
    status, message = post(provider, "strict", changes)
    assert (status, message[: 22 + len(detail)]) == (400, f"Body validation error\n{detail}")


@pytest.mark.parametrize("rules", ["lenient", "strict"])
@pytest.mark.parametrize("name", REFUSED_BY_BOTH)
def test_neither_accepts(provider: Provider, name: str, rules: str) -> None:
    changes, detail = REFUSED_BY_BOTH[name]
    status, message = post(provider, rules, changes)
    assert (status, message[: 22 + len(detail)]) == (400, f"Body validation error\n{detail}")


@pytest.mark.parametrize("rules", ["lenient", "strict"])
@pytest.mark.parametrize("name", ALONE)
def test_calls_and_outputs_belong_together(provider: Provider, name: str, rules: str) -> None:
    changes, message = ALONE[name]
    assert post(provider, rules, changes) == (400, message)


@pytest.mark.parametrize("name", ALONE_AND_LENIENT)
def test_calls_of_other_kinds_and_their_outputs_belong_together_too(provider: Provider, name: str) -> None:
    changes, message = ALONE_AND_LENIENT[name]
    assert post(provider, "lenient", changes) == (400, message)


def test_lenient_rules_require_an_input(provider: Provider) -> None:
    for missing in (..., None):
        status, message = post(provider, "lenient", {"input": missing})
        assert (status, message[:15]) == (400, 'One of "input" ')


def test_the_rules_are_lenient_by_default(provider: Provider) -> None:
    assert provider.http.get("/_script").json()["rules"] == "lenient"
    assert provider.http.put("/_script", json={"rules": "none"}).status_code == 400
