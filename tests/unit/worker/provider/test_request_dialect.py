"""A request to a strict provider fits its documented schema and keeps the client's meaning."""

import json
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from jobs.settings import Dialect
from simulator.rules.strict import as_json_schema, request_schema
from tests.unit.api.request.test_schema import instances
from worker.provider.request_dialect import in_dialect, is_accepted

Json = dict[str, Any]

SCHEMA: Final = request_schema()
VALIDATORS: Final = {
    name: Draft202012Validator(as_json_schema(field)) for name, field in SCHEMA["properties"].items() if name != "model"
}
HELLO: Final[Json] = {"model": "openai/o3-pro", "input": "Hello"}
CALL: Final[Json] = {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"}
NO_PARAMETERS: Final[Json] = {"type": "object", "properties": {}}


def strict(**fields: Any) -> Json:
    """Return the body that a strict provider gets, after checking it against the schema."""
    sent = in_dialect({**HELLO, **fields}, Dialect.STRICT)
    for name, value in sent.items():
        if name in VALIDATORS:
            VALIDATORS[name].validate(value)
    return sent


def item(given: Json) -> Any:
    [sent] = strict(input=[given])["input"]
    return sent


def test_openai_gets_the_clients_request() -> None:
    body = {
        **HELLO,
        "input": [{"role": "assistant", "content": [{"type": "output_text", "text": "b"}]}],
        "tools": [{"type": "function", "name": "f"}, {"type": "web_search"}],
        "text": {},
        "include": ["telepathy.range"],
    }
    assert in_dialect(body, Dialect.OPENAI) == body


TOOLS: Final[dict[str, tuple[Json, Json]]] = {
    "a function without strict": (
        {"type": "function", "name": "f", "parameters": {"type": "object", "default": None}},
        {"type": "function", "name": "f", "parameters": {"type": "object", "default": None}, "strict": False},
    ),
    "a function of nulls": (
        {"type": "function", "name": "f", "strict": None, "parameters": None, "description": None},
        {"type": "function", "name": "f", "parameters": NO_PARAMETERS, "strict": False},
    ),
    "a function that is strict": (
        {"type": "function", "name": "f", "strict": True, "parameters": {}, "description": "F."},
        {"type": "function", "name": "f", "strict": True, "parameters": {}, "description": "F."},
    ),
    "web search by its newer name": (
        {"type": "web_search", "filters": None, "search_context_size": "medium", "user_location": {"city": "Oslo"}},
        {
            "type": "web_search_preview",
            "search_context_size": "medium",
            "user_location": {"type": "approximate", "city": "Oslo"},
        },
    ),
    "dated web search": (
        {"type": "web_search_preview_2025_03_11", "search_context_size": "vast", "user_location": None},
        {"type": "web_search_preview_2025_03_11"},
    ),
    "an MCP server": (
        {"type": "mcp", "server_label": "d", "server_url": "https://a", "headers": None, "authorization": None},
        {"type": "mcp", "server_label": "d", "server_url": "https://a"},
    ),
}


@pytest.mark.parametrize("name", TOOLS)
def test_a_tool_is_sent_in_the_documented_form(name: str) -> None:
    given, sent = TOOLS[name]
    assert strict(tools=[given])["tools"] == [sent]


TEXTS: Final[tuple[tuple[Any, Json], ...]] = (
    ({}, {"format": {"type": "text"}}),
    ({"verbosity": "low"}, {"format": {"type": "text"}, "verbosity": "low"}),
    ({"format": None, "verbosity": None}, {"format": {"type": "text"}}),
    ({"format": {"type": "json_object", "schema": {}}}, {"format": {"type": "json_object"}}),
    (
        {"format": {"type": "json_schema", "name": "n", "schema": {"enum": [None]}, "description": None}},
        {"format": {"type": "json_schema", "name": "n", "schema": {"enum": [None]}}},
    ),
)


@pytest.mark.parametrize(("given", "sent"), TEXTS)
def test_the_format_of_the_answer_is_always_sent(given: Any, sent: Json) -> None:
    assert strict(text=given)["text"] == sent


PART: Final[Json] = {"type": "output_text", "text": "b", "annotations": []}
ITEMS: Final[dict[str, tuple[Json, Json]]] = {
    "an answer of its text alone": (
        {"role": "assistant", "content": [{"type": "output_text", "text": "b"}]},
        {"type": "message", "role": "assistant", "status": "completed", "content": [PART]},
    ),
    "an answer of nulls": (
        {
            "type": "message",
            "id": None,
            "status": None,
            "role": "assistant",
            "phase": "commentary",
            "content": [{**PART, "annotations": None, "logprobs": None}],
        },
        {"type": "message", "role": "assistant", "status": "completed", "phase": "commentary", "content": [PART]},
    ),
    "an answer that failed midway": (
        {"type": "message", "id": "msg_1", "status": "failed", "role": "assistant", "content": [PART]},
        {"type": "message", "status": "incomplete", "role": "assistant", "content": [PART]},
    ),
    "an answer with citations": (
        {
            "role": "assistant",
            "content": [
                {
                    **PART,
                    "annotations": [
                        {"type": "url_citation", "url": "https://a", "start_index": 1, "end_index": 2},
                        {"type": "file_citation", "file_id": "file_1", "index": 3},
                    ],
                }
            ],
        },
        {
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [
                {
                    **PART,
                    "annotations": [
                        {"type": "url_citation", "url": "https://a", "start_index": 1, "end_index": 2, "title": ""}
                    ],
                }
            ],
        },
    ),
    "an answer as plain text": ({"role": "assistant", "content": "b"}, {"role": "assistant", "content": "b"}),
    "an image of original detail": (
        {"role": "user", "content": [{"type": "input_image", "image_url": "https://a", "detail": "original"}]},
        {"role": "user", "content": [{"type": "input_image", "image_url": "https://a", "detail": "high"}]},
    ),
    "an image of no detail": (
        {"role": "user", "content": [{"type": "input_image", "image_url": "https://a", "detail": None}]},
        {"role": "user", "content": [{"type": "input_image", "image_url": "https://a"}]},
    ),
    "reasoning of nulls": (
        {"type": "reasoning", "summary": None, "content": None, "status": None, "encrypted_content": "gAAAA"},
        {"type": "reasoning", "summary": [], "encrypted_content": "gAAAA"},
    ),
    "a function call of nulls": ({**CALL, "id": None, "status": None}, CALL),
    "a result of texts": (
        {
            "type": "function_call_output",
            "call_id": "call_1",
            "status": None,
            "output": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}],
        },
        {"type": "function_call_output", "call_id": "call_1", "output": "a\nb"},
    ),
    "a hosted search without id": ({"type": "web_search_call"}, {"type": "web_search_call", "status": "completed"}),
    "a failed MCP call": (
        {"type": "mcp_call", "server_label": "d", "name": "f", "arguments": "{}", "error": {"code": 1}, "output": None},
        {"type": "mcp_call", "server_label": "d", "name": "f", "arguments": "{}", "error": '{"code": 1}'},
    ),
    "a reference": ({"type": "item_reference", "id": "msg_1"}, {"type": "item_reference", "id": "msg_1"}),
}
WITH_AN_ID_OF_OURS: Final = {"message": "msg_", "reasoning": "rs_", "web_search_call": "ws_", "mcp_call": "mcp_"}


@pytest.mark.parametrize("name", ITEMS)
def test_an_item_is_sent_in_the_documented_form(name: str) -> None:
    given, sent = ITEMS[name]
    found = item(given)
    made = found.pop("id") if "id" in found and "id" not in sent else None
    assert found == sent
    if made is not None:
        assert made.startswith(WITH_AN_ID_OF_OURS[found["type"]])


def test_images_in_an_output_are_sent_unchanged() -> None:
    parts = [{"type": "input_text", "text": "a"}, {"type": "input_image", "image_url": "https://a"}]
    result = {"type": "function_call_output", "call_id": "call_1", "output": parts}
    assert in_dialect({**HELLO, "input": [result]}, Dialect.STRICT)["input"] == [result]


@pytest.mark.parametrize("kind", ["agent_message", "additional_tools", "compaction", "acme:search_result"])
def test_an_item_without_a_form_in_the_schema_is_sent_unchanged(kind: str) -> None:
    body = {
        **HELLO,
        "input": [{"type": kind, "id": None, "content": [None]}, {"role": "user", "content": [{"type": kind}]}],
        "tools": [{"type": kind, "server_url": None}],
        "tool_choice": {"type": kind},
    }
    assert in_dialect(body, Dialect.STRICT) == body


def test_made_ids_are_unique_and_the_same_at_each_attempt() -> None:
    answer = {"role": "assistant", "content": [{"type": "output_text", "text": "b"}]}
    first, second = strict(input=[answer, answer])["input"]
    assert first["id"] != second["id"]
    assert strict(input=[answer, answer])["input"] == [first, second]


def test_only_documented_includes_are_sent() -> None:
    assert strict(include=["web_search_call.results", "reasoning.encrypted_content"])["include"] == [
        "reasoning.encrypted_content"
    ]
    assert "include" not in strict(include=["web_search_call.results"])


def test_allowed_tools_are_the_only_ones_offered() -> None:
    tools = [{"type": "function", "name": name, "parameters": {}, "strict": True} for name in "fgh"]
    tools += [{"type": "web_search"}, {"type": "mcp", "server_label": "a", "server_url": "https://a"}]
    allowed = [
        {"type": "function", "name": "g"},
        {"type": "web_search"},
        {"type": "mcp", "server_label": "a", "name": "t"},
    ]
    sent = strict(tools=tools, tool_choice={"type": "allowed_tools", "mode": "required", "tools": allowed})
    assert sent["tools"] == [tools[1], {"type": "web_search_preview"}, tools[4]]
    assert sent["tool_choice"] == "required"
    assert strict(tools=tools, tool_choice={"type": "allowed_tools", "tools": allowed})["tool_choice"] == "auto"
    assert strict(tools=tools, tool_choice={"type": "web_search"})["tool_choice"] == {"type": "web_search_preview"}
    without_names = strict(tools=tools[:1], tool_choice={"type": "allowed_tools", "tools": None})
    assert (without_names["tools"], without_names["tool_choice"]) == (tools[:1], "auto")
    unknown = {"type": "allowed_tools", "tools": [{"type": "function", "name": "k"}]}
    assert in_dialect({**HELLO, "tools": tools, "tool_choice": unknown}, Dialect.STRICT)["tool_choice"] == unknown


def test_nulls_in_options_are_removed() -> None:
    variables = {"a": "b", "c": {"type": "input_file", "file_data": None, "filename": "a.pdf"}, "d": None}
    sent = strict(
        reasoning={"effort": "high", "summary": None},
        prompt={"id": "pmpt_1", "version": None, "variables": variables},
        tools=[
            {
                "type": "mcp",
                "server_label": "a",
                "server_url": "https://a",
                "allowed_tools": {"tool_names": None},
                "require_approval": {"always": None, "never": {"tool_names": None}},
            }
        ],
    )
    assert sent["reasoning"] == {"effort": "high"}
    assert sent["prompt"] == {
        "id": "pmpt_1",
        "variables": {"a": "b", "c": {"type": "input_file", "filename": "a.pdf"}},
    }
    [server] = sent["tools"]
    assert (server["allowed_tools"], server["require_approval"]) == ({}, {"never": {}})


def test_an_answer_with_an_image_is_sent_as_a_message_with_one() -> None:
    image = {"type": "input_image", "image_url": "https://a"}
    found = item({"role": "assistant", "content": [{"type": "output_text", "text": "b", "annotations": []}, image]})
    assert found == {"role": "assistant", "content": [{"type": "input_text", "text": "b"}, image]}


@pytest.mark.parametrize(
    ("kind", "dialect", "taken"),
    [
        ("message", Dialect.STRICT, True),
        ("custom_tool_call", Dialect.STRICT, True),
        ("acme:search_result", Dialect.STRICT, True),
        ("future_thought", Dialect.STRICT, False),
        ("future_thought", Dialect.OPENAI, True),
    ],
)
def test_an_answers_item_is_sent_again_unless_it_would_be_refused(kind: str, dialect: Dialect, taken: bool) -> None:
    assert is_accepted({"type": kind, "id": "x_1"}, dialect) is taken


@pytest.mark.parametrize("field", [name for name in VALIDATORS if name in ("input", "tools", "text", "tool_choice")])
def test_the_documented_form_is_unchanged(field: str) -> None:
    for value in instances(SCHEMA["properties"][field]):
        once = strict(**{field: value})
        assert strict(**once) == once


scalars = st.none() | st.booleans() | st.integers() | st.sampled_from(["message", "assistant", "function", "text"])
names = st.sampled_from(
    ["type", "role", "content", "id", "status", "text", "format", "summary", "tools", "output", "annotations", "strict"]
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4), max_leaves=12
)
kinds = st.sampled_from(
    ["message", "function_call", "function_call_output", "reasoning", "mcp_list_tools", "mcp_call", "web_search"]
)
objects = st.lists(st.builds(lambda kind, rest: {**rest, "type": kind}, kinds, st.dictionaries(names, values)))


@settings(deadline=None)
@given(objects | values, objects | values, values)
def test_no_body_raises_and_none_is_modified(input_: Any, tools: Any, text: Any) -> None:
    body = {**HELLO, "input": input_, "tools": tools, "text": text, "tool_choice": text, "include": tools}
    before = json.dumps(body)
    json.dumps(in_dialect(body, Dialect.STRICT))
    assert json.dumps(body) == before
