"""Bodies that are accepted, and the errors for all others."""

from typing import Any, get_args

import pytest

from api.request.body import (
    LARGEST_TOKEN_COUNT,
    CreateResponse,
    parse_request,
)
from jobs.job import OnUnknownOutcome, Truncation
from jobs.request_fields import OWN_FIELDS, WITHHELD_FIELDS
from tests.unit.api.request.bodies import (
    ANSWER,
    FUNCTION,
    HELLO,
    MCP,
    OUTPUT_TEXT,
    assistant,
    body,
    encode,
    item,
    refusal,
    sent_on,
    user,
)

UNKNOWN_ITEMS = (
    "agent_message",
    "multi_agent_call",
    "additional_tools",
    "compaction",
    "program",
    "acme:telepathy",
    "other",
)

GOOD: dict[str, dict[str, Any]] = {
    "text": HELLO,
    "any model name": body(model="some-model/that-we_never.heard:of"),
    "message without type": item(role="user", content="Hi"),
    "message with type": item(type="message", role="developer", content="Hi"),
    "message with status": item(role="system", content=[{"type": "input_text", "text": ""}], status="completed"),
    "message with empty text": item(role="user", content=""),
    "message without parts": item(role="user", content=[]),
    "assistant as text": item(role="assistant", content="Hi"),
    "assistant with input parts": item(role="assistant", content=[{"type": "input_text", "text": "Hi"}]),
    "earlier answer": body(input=[ANSWER]),
    "earlier refusal": assistant({"type": "refusal", "refusal": "No."}),
    "annotation of OpenAI's": assistant({**OUTPUT_TEXT, "annotations": [{"type": "file_path", "index": "unread"}]}),
    "image without URL": user({"type": "input_image"}),
    "image with null URL": user({"type": "input_image", "image_url": None}),
    "image by OpenAI's file id": user({"type": "input_image", "detail": "low", "file_id": "file_1"}),
    "file by OpenAI's URL": user({"type": "input_file", "file_url": "https://example.com/a.pdf"}),
    "item of OpenAI's": item(type="shell_call_output", output=5),
    "reference without type": item(id="msg_1"),
    "reference with null type": item(id="msg_1", type=None),
    "no input but an earlier response": body(input=[], previous_response_id="resp_1"),
    "no input but a prompt": body(input="", prompt={"id": "pmpt_1"}),
    "prompt with variables": body(
        prompt={"id": "p", "variables": {"a": "b", "c": {"type": "input_text", "text": "d"}}, "version": None}
    ),
    "tool of OpenAI's": body(tools=[{"type": "custom", "name": 5}, {"type": "web_search"}]),
    "dated search tool": body(tools=[{"type": "web_search_preview_2025_03_11", "user_location": None}]),
    "mcp with a list of tools": body(tools=[{**MCP, "allowed_tools": ["a"], "headers": {"a": "b"}}]),
    "mcp with a filter": body(tools=[{**MCP, "allowed_tools": {"tool_names": ["a"], "read_only": True}}]),
    "mcp with rules": body(tools=[{**MCP, "require_approval": {"always": {"tool_names": ["a"]}, "never": {}}}]),
    "mcp with nulls": body(tools=[{**MCP, "allowed_tools": None, "headers": None, "require_approval": None}]),
    "choice of OpenAI's": body(tool_choice={"type": "allowed_tools", "mode": "auto", "tools": [FUNCTION]}),
    "all efforts": body(reasoning={"effort": "xhigh", "summary": None, "mode": "pro"}),
    "include of OpenAI's": body(include=["web_search_call.action.sources"]),
    "the smallest answer": body(max_output_tokens=16),
    "the largest answer": body(max_output_tokens=LARGEST_TOKEN_COUNT),
    "metadata to the brim": body(metadata={f"{n:064}": "v" * 512 for n in range(16)}),
    "NUL in the prompt": body(input="a\0b", instructions="\0"),
    "conversation by id": body(conversation="conv_1"),
    "conversation object": body(conversation={"id": "conv_1"}),
    "stream options": body(stream=True, stream_options={"include_obfuscation": False, "later": 1}),
    "background options": body(background=True, background_options={"completion_window": "2h"}),
    "message with a null type": item(type=None, role="user", content="Hi"),
    "role of the future": item(role="critic", content="Hi"),
    "answer without id and status": item(role="assistant", content=[{"type": "output_text", "text": "b"}]),
    "answer of nulls": item(
        type="message",
        id=None,
        status=None,
        role="assistant",
        content=[{**OUTPUT_TEXT, "annotations": None, "logprobs": None}],
    ),
    "answer with any status": body(input=[{**ANSWER, "status": "failed"}]),
    "citation without title": assistant({**OUTPUT_TEXT, "annotations": [{"type": "url_citation", "url": "https://a"}]}),
    "log probability without bytes": assistant({**OUTPUT_TEXT, "logprobs": [{"token": "a", "bytes": None}]}),
    "reasoning of nulls": item(type="reasoning", id=None, summary=None, content=None, status=None),
    "reasoning without id": item(type="reasoning", summary=[], encrypted_content="gAAAA"),
    "result of parts": item(
        type="function_call_output",
        call_id="c",
        output=[{"type": "input_text", "text": "a"}, {"type": "input_image", "image_url": "https://a", "detail": None}],
    ),
    "call of a hosted tool without id": item(type="web_search_call"),
    "failed call of an MCP tool": item(type="mcp_call", error={"code": 1}, status="failed"),
    "items that nobody knows": body(input=[{"type": kind} for kind in UNKNOWN_ITEMS]),
    "parts that nobody knows": user({"type": "input_audio", "input_audio": {"data": "", "format": "mp3"}}),
    "image of original detail": user({"type": "input_image", "image_url": "https://a", "detail": "original"}),
    "function without strict": body(tools=[{"type": "function", "name": "f"}]),
    "function of nulls": body(
        tools=[{"type": "function", "name": "f", "strict": None, "parameters": None, "description": None}]
    ),
    "tools that nobody knows": body(tools=[{"type": "telepathy", "range": 5}]),
    "mcp by connector": body(tools=[{"type": "mcp", "server_label": "d", "connector_id": "connector_dropbox"}]),
    "choices that nobody knows": body(tool_choice={"type": "telepathy"}),
    "choice of the future": body(tool_choice="any"),
    "text without format": body(text={}),
    "text of a verbosity": body(text={"verbosity": "low"}),
    "null format": body(text={"format": None}),
    "schema without description": body(
        text={"format": {"type": "json_schema", "name": "n", "schema": {}, "description": None, "strict": None}}
    ),
    "format of the future": body(text={"format": {"type": "grammar", "syntax": "lark"}}),
    "includes of the future": body(include=["telepathy.range"]),
    "effort of the future": body(reasoning={"effort": "heroic"}),
    "no input beside an earlier response": {"model": "m", "previous_response_id": "resp_1"},
    "no input beside a prompt": {"model": "m", "prompt": {"id": "pmpt_1"}, "input": None},
    "fields named like the checker's own": body(model_config=1, __class__="x", model_extra=[], schema_=None),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_body_is_kept_as_it_was_sent(name: str) -> None:
    sent = GOOD[name]
    parsed = parse_request(encode(sent))
    assert encode(parsed.body) == encode(sent)  # including the order of the keys
    assert parsed.fields.model == sent["model"]


OPTIONAL = [name for name, field in CreateResponse.model_fields.items() if not field.is_required()]


@pytest.mark.parametrize("name", OPTIONAL)
def test_a_null_option_counts_as_absent_and_is_kept(name: str) -> None:
    sent = body(**{"prompt": {"id": "pmpt_1"}, name: None}) if name == "input" else body(**{name: None})
    parsed = parse_request(encode(sent))
    assert getattr(parsed.fields, name) is None
    assert parsed.body == sent


@pytest.mark.parametrize("name", OPTIONAL)
def test_no_value_is_invented_for_an_absent_field(name: str) -> None:
    sent = {**HELLO, "prompt": {"id": "pmpt_1"}} if name == "input" else HELLO
    sent = {field: value for field, value in sent.items() if field != name}
    parsed = parse_request(encode(sent if name != "prompt" else HELLO))
    assert getattr(parsed.fields, name) is None
    assert name not in parsed.body


def test_the_provider_gets_its_own_fields_and_unknown_ones() -> None:
    ours = {
        "background": True,
        "background_options": {},
        "conversation": "c",
        "metadata": {},
        "previous_response_id": "resp_1",
        "store": True,
        "stream": False,
        "stream_options": {},
        "webhook": {"url": "https://example.com"},
        "max_attempts": 2,
        "deadline_seconds": 60,
        "on_unknown_outcome": "fail",
        "priority": 1,
        "run_at": 1,
    }
    theirs = {"temperature": None, "model": "m", "zzz": {"b": 1, "a": [2]}, "input": "x", "truncation": None}
    parsed = parse_request(encode({**ours, **theirs}))
    assert encode(sent_on(parsed)) == encode(theirs)
    assert frozenset(ours) == WITHHELD_FIELDS
    assert OWN_FIELDS < WITHHELD_FIELDS < frozenset(CreateResponse.model_fields)


def test_a_long_prompt_is_not_copied() -> None:
    parsed = parse_request(encode(body(input="word " * 100_000)))
    assert parsed.fields.input is parsed.body["input"]


def test_a_million_faults_make_one_error() -> None:
    error = refusal(body(input=[5] * 100_000))
    assert error.param == "input[0]"
    error = refusal(body(tool_choice={"type": "allowed_tools", "tools": [5] * 100_000}))
    assert error.param == "tool_choice.tools[0]"
    error = refusal(body(tools=[{**MCP, "headers": {str(n): n for n in range(100_000)}}]))
    assert error.code == "object_above_max_properties"
    error = refusal(body(webhook={"url": "https://a", **{str(n): n for n in range(100_000)}}))
    assert error.param == "webhook.0"


@pytest.mark.parametrize(
    "secret",
    [
        body(input=[{"role": "user", "content": [{"type": "input_text", "text": ["the secret plan"]}]}]),
        body(instructions={"the secret plan": 1}),
        body(input=[{"role": "user", "content": "the secret plan", "status": 5}]),
        body(webhook={"url": "https://example.com/?the secret plan"}),
        body(webhook={"url": "https://example.com", "secret": "whsec_the secret plan"}),
    ],
)
def test_an_error_holds_no_prompt_and_no_secret(secret: dict[str, Any]) -> None:
    error = refusal(secret)
    assert "secret plan" not in error.message
    assert error.__cause__ is None
    assert error.__suppress_context__


@pytest.mark.parametrize(
    ("field", "enum"), [("on_unknown_outcome", OnUnknownOutcome), ("truncation", Truncation)], ids=str
)
def test_request_values_are_spelled_as_in_the_domain(
    field: str, enum: type[OnUnknownOutcome] | type[Truncation]
) -> None:
    values, _null = get_args(CreateResponse.model_fields[field].annotation)
    assert set(get_args(values)) == {member.value for member in enum}
