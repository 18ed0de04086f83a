"""The tools that an answer calls, its use of their outputs, and the additional parts of `include`."""

import base64
import json
from typing import Any, Final

import openai
import pytest

from tests.simulator.provider import KEY, Json, Provider

CITY: Final = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER: Final = {"type": "function", "name": "get_weather", "parameters": CITY, "strict": False}
TIME: Final = {"type": "function", "name": "get_time", "parameters": CITY, "strict": False}
NOTE: Final = {"type": "custom", "name": "note"}
NAMESPACE: Final = {"type": "namespace", "name": "crm", "tools": [{"type": "function", "name": "find_customer"}]}
ODD_NAMESPACE: Final = {"type": "namespace", "name": None, "tools": [{"type": [], "name": "note"}, "note", None]}
ALL: Final = [WEATHER, TIME, NOTE, NAMESPACE]
BOTH: Final = "First use get_time, then call get_weather."


def user(text: str) -> Json:
    return {"role": "user", "content": [{"type": "input_text", "text": text}]}


def called(answer: Json) -> list[tuple[str, str]]:
    return [
        (item["type"], item["name"])
        for item in answer["output"]
        if item["type"].endswith("tool_call") or item["type"] == "function_call"
    ]


def output_of(call: Json, output: Any) -> Json:
    return {"type": f"{call['type']}_output", "call_id": call["call_id"], "output": output}


@pytest.mark.parametrize(
    ("prompt", "fields", "names"),
    [
        ("use get_weather", {}, ["get_weather"]),
        ("`get_weather`!", {}, ["get_weather"]),
        (BOTH, {}, ["get_weather", "get_time"]),
        (BOTH, {"parallel_tool_calls": False}, ["get_weather"]),
        (BOTH, {"tool_choice": {"type": "function", "name": "get_time"}}, ["get_time"]),
        ("make a note", {}, ["note"]),
        ("use find_customer", {}, ["find_customer"]),
        ("Hello", {"tool_choice": "required"}, ["get_weather"]),
        ("Hello", {"tool_choice": {"type": "custom", "name": "note"}}, ["note"]),
        (
            "Hello",
            {
                "tool_choice": {
                    "type": "allowed_tools",
                    "mode": "required",
                    "tools": [{"type": "function", "name": "get_time"}],
                }
            },
            ["get_time"],
        ),
        (
            BOTH,
            {"tool_choice": {"type": "allowed_tools", "tools": [{"type": "function", "name": "get_time"}]}},
            ["get_time"],
        ),
        ("[[sim: full text=No]] use get_weather", {"tool_choice": "required"}, ["get_weather"]),
        ("[[sim: full text=No]] use get_weather", {}, []),
        (BOTH, {"tool_choice": "none"}, []),
        ("Hello", {"tool_choice": {"type": "function", "name": "unknown"}}, []),
        ("Hello", {}, []),
        ("use get_weather_now or my-get_weather", {}, []),
    ],
)
def test_a_tool_is_called_if_it_is_named_or_required(
    provider: Provider, prompt: str, fields: Json, names: list[str]
) -> None:
    answer = provider.ask(prompt, tools=ALL, **fields).json()
    assert [name for _, name in called(answer)] == names
    assert ("message" in [item["type"] for item in answer["output"]]) is (names == [])


def test_calls_have_the_form_of_their_tool(provider: Provider) -> None:
    answer = provider.ask("get_weather, note, find_customer", tools=[ODD_NAMESPACE, *ALL]).json()
    function, custom, inner = answer["output"][1:]
    assert json.loads(function["arguments"]) == {"city": "example"}
    assert (custom["type"], custom["input"]) == ("custom_tool_call", "example")
    assert (inner["type"], inner["namespace"], inner["arguments"]) == ("function_call", "crm", "{}")
    assert len({call["call_id"] for call in (function, custom, inner)}) == 3


@pytest.mark.parametrize(
    "output",
    ["21 degrees", [{"type": "input_text", "text": "21 degrees"}, {"type": "input_image", "image_url": "data:,"}]],
)
@pytest.mark.parametrize("choice", ["auto", "required"])
def test_a_loop_of_tool_calls_ends_with_the_tools_outputs(provider: Provider, output: Any, choice: str) -> None:
    fields: Json = {"tools": [WEATHER, NOTE], "tool_choice": choice}
    conversation = [user("use get_weather and make a note")]
    first = provider.ask(conversation, **fields, parallel_tool_calls=False).json()
    assert called(first) == [("function_call", "get_weather")]
    conversation += [*first["output"], output_of(first["output"][-1], output)]
    second = provider.ask(conversation, **fields).json()
    assert called(second) == [("custom_tool_call", "note")]
    conversation += [*second["output"], output_of(second["output"][-1], "noted")]
    third = provider.ask(conversation, **fields).json()
    assert called(third) == []
    assert 'The tools gave: "21 degrees", "noted".' in third["output_text"]
    conversation += [*third["output"], user("and again: use get_weather")]
    assert called(provider.ask(conversation, **fields).json()) == [("function_call", "get_weather")]
    conversation += [user("Thank you")]
    fourth = provider.ask(conversation, tools=ALL).json()
    assert (called(fourth), "The tools gave" in fourth["output_text"]) == ([], False)
    assert 'You wrote: "Thank you"' in fourth["output_text"]


def test_an_answers_items_may_be_sent_back(provider: Provider) -> None:
    provider.configure(rules="strict")
    tools = [WEATHER, {"type": "web_search_preview"}]
    include = ["reasoning.encrypted_content"]
    conversation: list[Json] = [user("search the web")]
    conversation += provider.ask(conversation, tools=tools, include=include).json()["output"]
    conversation += [user("use get_weather")]
    conversation += provider.ask(conversation, tools=tools, include=include).json()["output"]
    conversation += [output_of(conversation[-1], "sunny")]
    last = provider.ask(conversation, tools=tools, include=include).json()
    assert '"sunny"' in last["output_text"]


def test_an_output_alone_ends_the_loop_of_an_earlier_response(provider: Provider) -> None:
    output = {"type": "function_call_output", "call_id": "call_1", "output": "sunny"}
    answer = provider.ask([output], previous_response_id="resp_1", tools=[WEATHER], tool_choice="required").json()
    assert called(answer) == []
    assert '"sunny"' in answer["output_text"]


def test_a_directive_still_decides(provider: Provider) -> None:
    answer = provider.ask("[[sim: tool-call name=get_time]] use get_weather", tools=ALL).json()
    assert called(answer) == [("function_call", "get_time")]
    assert json.loads(answer["output"][1]["arguments"]) == {"city": "example"}
    assert called(provider.ask("[[sim: tool-call]] use get_time", tools=ALL).json()) == [("function_call", "get_time")]


@pytest.mark.parametrize("kind", ["web_search", "web_search_preview", "web_search_2025_08_26"])
def test_the_web_is_searched_if_the_prompt_asks_for_it(provider: Provider, kind: str) -> None:
    tools = [{"type": kind}]
    answer = provider.ask(
        "Please search the web for news", tools=tools, include=["web_search_call.action.sources"]
    ).json()
    assert [item["type"] for item in answer["output"]] == ["reasoning", "web_search_call", "message"]
    search = answer["output"][1]
    assert (search["status"], search["action"]["query"]) == ("completed", "Please search the web for news")
    assert search["action"]["sources"] == [{"type": "url", "url": "https://example.com/"}]
    for prompt, fields in (
        ("Hello", {"tools": tools}),
        ("search the web", {}),
        ("search the web", {"tools": tools, "tool_choice": "none"}),
        ([user("search the web"), *answer["output"]], {"tools": tools}),
    ):
        assert "web_search_call" not in [item["type"] for item in provider.ask(prompt, **fields).json()["output"]]
    demanded = provider.ask("Hello", tools=tools, tool_choice={"type": kind}).json()
    assert demanded["output"][1]["type"] == "web_search_call"


def test_include_brings_encrypted_reasoning_and_logprobs(provider: Provider) -> None:
    plain = provider.ask("Hello").json()["output"]
    assert "encrypted_content" not in plain[0]
    assert plain[1]["content"][0]["logprobs"] == []
    include = ["reasoning.encrypted_content", "message.output_text.logprobs", "file_search_call.results", "later.kind"]
    fields: Json = {"include": include, "top_logprobs": 2}
    reasoning, message = provider.ask('[[sim: full text="One two"]]', **fields).json()["output"]
    assert len(base64.urlsafe_b64decode(reasoning["encrypted_content"] + "==")) > 90
    tokens = message["content"][0]["logprobs"]
    assert [each["token"] for each in tokens] == ["One", " two"]
    assert bytes(tokens[1]["bytes"]) == b" two"
    assert all(each["logprob"] < 0 and each["top_logprobs"][0]["token"] == each["token"] for each in tokens)
    events = provider.events('[[sim: full text="One two three" chunk=5 every=0]]', **fields)
    spread = [[each["token"] for each in event["logprobs"]] for event in events if event["type"].endswith("text.delta")]
    assert spread == [["One", " two"], [" three"], []]


def test_the_official_sdk_streams_calls_of_every_kind(provider: Provider) -> None:
    with (
        openai.OpenAI(base_url=f"{provider.url}/v1", api_key=KEY, max_retries=0) as client,
        client.responses.stream(model="openai/o3-pro", input="get_weather and note", tools=ALL) as stream,  # type: ignore[arg-type]
    ):
        events = [event.type for event in stream]
        final = stream.get_final_response()
    assert [item.type for item in final.output] == ["reasoning", "function_call", "custom_tool_call"]
    assert {"response.function_call_arguments.done", "response.custom_tool_call_input.done"} <= set(events)
    searched = provider.events("[[sim: full every=0]] search the web", tools=[{"type": "web_search"}])
    states = [event["type"].rpartition(".")[2] for event in searched if "web_search_call" in event["type"]]
    assert states == ["in_progress", "searching", "completed"]


NOTHING: Final[list[Json]] = [
    {"text": None, "reasoning": None, "tools": None, "tool_choice": None, "include": None, "metadata": None},
    {"text": {"format": None}},
    {"text": {"format": {}}},
    {"text": {"verbosity": "low", "format": {"type": None}}},
    {"temperature": None, "top_p": None, "truncation": None, "instructions": None, "parallel_tool_calls": None},
]


@pytest.mark.parametrize("fields", NOTHING)
@pytest.mark.parametrize("stream", [False, True])
def test_null_and_empty_are_the_default(provider: Provider, fields: Json, *, stream: bool) -> None:
    answer = provider.events(**fields)[-1]["response"] if stream else provider.ask(**fields).json()
    assert answer["text"]["format"] == {"type": "text"}
    assert (answer["tools"], answer["tool_choice"], answer["truncation"]) == ([], "auto", "disabled")
    assert (answer["temperature"], answer["top_p"], answer["reasoning"]["effort"]) == (1, 1, "medium")
    assert "You wrote" in answer["output_text"]


def test_settings_are_echoed(provider: Provider) -> None:
    fields: Json = {"text": {"verbosity": "low"}, "temperature": 0, "top_p": 0.5}
    answer = provider.ask(**fields).json()
    assert answer["text"] == {"verbosity": "low", "format": {"type": "text"}}
    assert (answer["temperature"], answer["top_p"]) == (0, 0.5)


def nested(depth: int) -> Json:
    schema: Json = {}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


@pytest.mark.parametrize(
    "parameters",
    [
        None,
        {},
        {"type": "array"},
        {"type": ["object"], "properties": 7},
        {"type": [], "enum": 7, "anyOf": {}, "$defs": 7},
        {"$ref": 7},
        {"$ref": "#/nowhere"},
        {"type": "object", "properties": {"a": {"type": {}}, "b": None, "c": {"type": "array", "minItems": 10**9}}},
        {"properties": {"a": {"type": "string", "maxLength": None, "minLength": 10**12, "format": []}}},
        {
            "properties": {
                "a": {"type": "integer", "minimum": "x", "maximum": 0},
                "b": {"minimum": None, "type": "number"},
            }
        },
        nested(300),
        {"type": "integer", "minimum": 10**400},
    ],
)
def test_no_schema_is_too_odd(provider: Provider, parameters: Any) -> None:
    tool = {"type": "function", "name": "look", "parameters": parameters}
    (call,) = provider.ask("look", tools=[tool]).json()["output"][1:]
    assert isinstance(json.loads(call["arguments"]), dict | list | str | int | None)
    form = {"type": "json_schema", "name": "x", "schema": parameters or {}}
    assert provider.ask(text={"format": form}).status_code == 200


@pytest.mark.parametrize(
    "item",
    [
        {"type": "reasoning", "summary": [], "encrypted_content": "x"},
        {"role": "assistant", "content": "Hi"},
        {"role": "assistant", "content": [{"type": "output_text", "text": "Hi"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "No"}]},
        {"type": "web_search_call", "status": "completed"},
        {"type": "code_interpreter_call", "code": "1", "outputs": [{"type": "logs", "logs": "x"}]},
        {"type": "mcp_list_tools", "server_label": "x", "tools": []},
        {"type": "mcp_call", "name": "x", "arguments": "{}", "output": "[[sim: 500]]"},
        {"type": "compaction", "encrypted_content": "x"},
        {"type": "item_reference", "id": "msg_1"},
        {"type": "multi_agent_call", "content": "[[sim: 500]]"},
    ],
)
def test_a_turn_begins_after_any_item_of_the_model(provider: Provider, item: Json) -> None:
    conversation = [user("[[sim: 500]] Hello"), item]
    assert provider.ask(conversation).status_code == 200
    assert '"Then"' in provider.ask([*conversation, user("Then")]).json()["output_text"]


@pytest.mark.parametrize(
    ("call", "output"),
    [
        ({"type": "function_call", "name": "x", "arguments": "{}"}, "[[sim: 418]]"),
        ({"type": "function_call", "name": "x", "arguments": "{}"}, [{"type": "input_text", "text": "[[sim: 418]]"}]),
        ({"type": "function_call", "name": "x", "arguments": "{}"}, [{"type": "later", "text": "[[sim: 418]]"}]),
        ({"type": "custom_tool_call", "name": "x", "input": ""}, "[[sim: 418]]"),
        ({"type": "shell_call", "action": {}}, [{"stdout": "[[sim: 418]]", "stderr": "", "outcome": {}}]),
        ({"type": "computer_call", "action": {}}, {"type": "computer_screenshot", "text": "[[sim: 418]]"}),
    ],
)
def test_outputs_of_every_kind_are_read(provider: Provider, call: Json, output: Any) -> None:
    answer = {"type": f"{call['type']}_output", "call_id": "call_1", "output": output}
    assert provider.ask([user("Go"), {**call, "call_id": "call_1"}, answer]).status_code == 418
