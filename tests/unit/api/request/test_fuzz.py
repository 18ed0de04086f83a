"""Generated bodies: any JSON is accepted, or refused with a proper error."""

import json
from typing import Any, Final

from hypothesis import example, given, settings
from hypothesis import strategies as st

from api.request.body import CreateResponse, parse_request
from api.request.openapi import request_body
from jobs.encoding import from_json
from jobs.errors import RequestInvalid

BODIES: Final = [shown["value"] for shown in request_body()["content"]["application/json"]["examples"].values()]

# Words that the checker knows, so that generated bodies pass its first checks.
NAMES: Final = sorted(
    {
        "type",
        "role",
        "content",
        "id",
        "status",
        "text",
        "format",
        "schema",
        "name",
        "parameters",
        "strict",
        "annotations",
    }
    | {"call_id", "output", "summary", "arguments", "server_label", "server_url", "allowed_tools", "require_approval"}
    | {
        "image_url",
        "detail",
        "file_data",
        "logprobs",
        "bytes",
        "url",
        "events",
        "secret",
        "effort",
        "variables",
        "\x1fx",
    }
    | set(CreateResponse.model_fields)
)
WORDS: Final = sorted(
    {"message", "function_call", "function_call_output", "reasoning", "mcp_list_tools", "mcp_call", "item_reference"}
    | {"input_text", "input_image", "input_file", "output_text", "refusal", "url_citation", "function", "mcp", "other"}
    | {"user", "assistant", "auto", "low", "completed", "json_schema", "web_search_preview", "string", "array", "{0}"}
)

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**65)
    | st.floats(allow_nan=False)
    | st.sampled_from(WORDS)
    | st.text(max_size=5)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=12,
)


def check(body: Any) -> None:
    try:
        parsed = parse_request(json.dumps(body).encode())
    except RequestInvalid as refused:
        error = refused
    else:
        assert parsed.body == from_json(json.dumps(body))
        assert isinstance(parsed.fields.model, str)
        return
    assert error.message
    assert error.code
    json.dumps([error.message, error.param], ensure_ascii=False).encode()  # it is sent as UTF-8


@settings(deadline=None)
@given(values)
@example({"model": "m", "input": [{"type": {}, "role": []}]})
@example({"model": "m", "input": [{"role": "assistant", "content": [{"type": ["output_text"]}]}]})
@example({"model": "m", "input": "x", "tool_choice": {"type": {"type": "function"}}})
@example({"model": "m", "input": "x", "metadata": {"[key]": 5}})
@example({"model": "m", "input": "x", "metadata": {"x": 2**64}})
@example({"model": "m", "input": "x", "\x1fx": [-(2**63) - 1]})
@example({"model": "m", "input": "x", "webhook": {"url": "https://a", "{name}": 1}})
def test_any_json_is_accepted_or_refused(body: Any) -> None:
    check(body)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), values, max_size=4), st.sampled_from(BODIES))
def test_any_fields_within_a_good_body_are_accepted_or_refused(fields: dict[str, Any], good: dict[str, Any]) -> None:
    check({**good, **fields})


@settings(deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(NAMES), values, min_size=1, max_size=6), min_size=1, max_size=3))
def test_any_items_and_tools_are_accepted_or_refused(objects: list[dict[str, Any]]) -> None:
    check({"model": "m", "input": objects})
    check({"model": "m", "input": "x", "tools": objects})
    check({"model": "m", "input": "x", "tool_choice": objects[0], "text": objects[0], "prompt": objects[0]})
