"""What is said when a field of OpenAI's is wrong: the path to it, OpenAI's code, OpenAI's words."""

from typing import Any

import pytest

from jobs.errors import CallerError
from tests.unit.api.bodies import ANSWER, FUNCTION, MCP, OUTPUT_TEXT, assistant, body, item, refusal, user

BAD: dict[str, tuple[dict[str, Any], str, str, str]] = {
    # what is required
    "no model": ({"input": "x"}, "model", "missing_required_parameter", "Missing required parameter: 'model'."),
    "no input": ({"model": "m"}, "input", "missing_required_parameter", "Missing required parameter: 'input'."),
    "chat's messages": (
        {"model": "m", "messages": [{"role": "user", "content": "x"}]},
        "input",
        "missing_required_parameter",
        "Missing required parameter: 'input'.",
    ),
    "null model": (body(model=None), "model", "invalid_type", "expected a string, but got null instead."),
    "null input": (
        body(input=None),
        "input",
        "invalid_type",
        "Invalid type for 'input': expected one of a string or array of input items, but got null instead.",
    ),
    "empty text": (body(input=""), "input", "missing_required_parameter", "One of 'input', 'previous_response_id'"),
    "empty list": (body(input=[]), "input", "missing_required_parameter", "One of 'input', 'previous_response_id'"),
    "the model before all else": ({"input": 5, "tools": 5}, "model", "missing_required_parameter", "'model'"),
    "the input before the rest": (body(input=5, tools=5, background=5), "input", "invalid_type", "an integer"),
    # items
    "item is no object": (
        body(input=["Hi"]),
        "input[0]",
        "invalid_type",
        "Invalid type for 'input[0]': expected an object, but got a string instead.",
    ),
    "item of no kind": (item(), "input[0].type", "missing_required_parameter", "parameter: 'input[0].type'."),
    "unknown item type": (
        item(type="telepathy"),
        "input[0].type",
        "invalid_value",
        "Invalid value: 'telepathy'. Supported values are: 'message', 'web_search_call', ",
    ),
    "item type named like a branch": (item(type="other"), "input[0].type", "invalid_value", "'message'"),
    "item type is no text": (item(type=["message"]), "input[0].type", "invalid_type", "a string, but got an array"),
    "null type of a message": (
        item(type=None, role="user", content="x"),
        "input[0].type",
        "invalid_type",
        "expected 'message', but got null instead.",
    ),
    "the second item": (
        body(input=[{"role": "user", "content": "x"}, {"type": "function_call", "name": "f", "arguments": "{}"}]),
        "input[1].call_id",
        "missing_required_parameter",
        "Missing required parameter: 'input[1].call_id'.",
    ),
    "message without role": (item(content="x"), "input[0].role", "missing_required_parameter", "'input[0].role'"),
    "message without content": (
        item(role="user"),
        "input[0].content",
        "missing_required_parameter",
        "'input[0].content'",
    ),
    "unknown role": (
        item(role="tool", content="x"),
        "input[0].role",
        "invalid_value",
        "Invalid value: 'tool'. Supported values are: 'user', 'assistant', 'system', and 'developer'.",
    ),
    "content of a wrong shape": (
        item(role="user", content={"type": "input_text", "text": "x"}),
        "input[0].content",
        "invalid_type",
        "expected one of a string or array of content parts, but got an object instead.",
    ),
    "image URL as an object": (
        user({"type": "input_text", "text": "x"}, {"type": "input_image", "image_url": {"url": "https://a"}}),
        "input[0].content[1].image_url",
        "invalid_type",
        "Invalid type for 'input[0].content[1].image_url': expected a string, but got an object instead.",
    ),
    "null where the schema has none": (
        user({"type": "input_file", "file_data": None}),
        "input[0].content[0].file_data",
        "invalid_type",
        "expected a string, but got null instead.",
    ),
    "audio": (
        user({"type": "input_audio", "input_audio": {"data": "", "format": "mp3"}}),
        "input[0].content[0].type",
        "invalid_value",
        "Invalid value: 'input_audio'. Supported values are: 'input_text', 'input_image', and 'input_file'.",
    ),
    "chat's part": (user({"type": "text", "text": "x"}), "input[0].content[0].type", "invalid_value", "'input_text'"),
    "part without type": (
        user({"text": "x"}),
        "input[0].content[0].type",
        "missing_required_parameter",
        "Missing required parameter: 'input[0].content[0].type'.",
    ),
    "part is text": (user("x"), "input[0].content[0]", "invalid_type", "expected an object, but got a string"),
    "output of a user": (user(OUTPUT_TEXT), "input[0].content[0].type", "invalid_value", "'output_text'"),
    "input within an answer": (
        body(input=[{**ANSWER, "content": [OUTPUT_TEXT, {"type": "input_text", "text": "x"}]}]),
        "input[0].content[1].type",
        "invalid_value",
        "Supported values are: 'output_text' and 'refusal'.",
    ),
    "answer without id": (
        item(type="message", role="assistant", status="completed", content=[OUTPUT_TEXT]),
        "input[0].id",
        "missing_required_parameter",
        "'input[0].id'",
    ),
    "unknown annotation": (
        assistant({**OUTPUT_TEXT, "annotations": [{"type": "rumour"}]}),
        "input[0].content[0].annotations[0].type",
        "invalid_value",
        "Supported values are: 'url_citation', 'file_citation', 'container_file_citation', and 'file_path'.",
    ),
    "citation at a decimal place": (
        assistant(
            {
                **OUTPUT_TEXT,
                "annotations": [
                    {"type": "url_citation", "start_index": 0, "end_index": 1.0, "title": "t", "url": "https://a"}
                ],
            }
        ),
        "input[0].content[0].annotations[0].end_index",
        "invalid_type",
        "expected an integer, but got a decimal number instead.",
    ),
    # numbers, texts and switches at the top
    "too few tokens": (
        body(max_output_tokens=15),
        "max_output_tokens",
        "integer_below_min_value",
        "Invalid 'max_output_tokens': integer below minimum value. Expected a value >= 16, but got 15 instead.",
    ),
    "too many tokens": (
        body(max_output_tokens=2**31),
        "max_output_tokens",
        "integer_above_max_value",
        "Expected a value <= 2147483647, but got 2147483648 instead.",
    ),
    "tokens as text": (
        body(max_output_tokens="512"),
        "max_output_tokens",
        "invalid_type",
        "Invalid type for 'max_output_tokens': expected an integer, but got a string instead.",
    ),
    "tokens as a switch": (body(max_output_tokens=True), "max_output_tokens", "invalid_type", "but got a boolean"),
    "tokens as a decimal": (body(max_output_tokens=16.0), "max_output_tokens", "invalid_type", "a decimal number"),
    "background as a number": (body(background=1), "background", "invalid_type", "a boolean, but got an integer"),
    "stream as text": (body(stream="true"), "stream", "invalid_type", "expected a boolean, but got a string"),
    "instructions as a list": (body(instructions=[]), "instructions", "invalid_type", "a string, but got an array"),
    "NUL in the model": (body(model="a\0"), "model", "invalid_value", "'model': it must not contain the NUL"),
    "NUL in an id": (body(previous_response_id="\0"), "previous_response_id", "invalid_value", "NUL character"),
    "unknown truncation": (
        body(truncation="middle"),
        "truncation",
        "invalid_value",
        "Invalid value: 'middle'. Supported values are: 'auto' and 'disabled'.",
    ),
    "truncation is no text": (
        body(truncation={"a": 1}),
        "truncation",
        "invalid_type",
        "Invalid type for 'truncation': expected one of 'auto' or 'disabled', but got an object instead.",
    ),
    "a long unknown value is cut": (body(truncation="x" * 5000), "truncation", "invalid_value", f"'{'x' * 64}...'."),
    "unknown effort": (
        body(reasoning={"effort": "heroic"}),
        "reasoning.effort",
        "invalid_value",
        "'none', 'minimal', 'low', 'medium', 'high', 'xhigh', and 'max'.",
    ),
    "reasoning as text": (body(reasoning="low"), "reasoning", "invalid_type", "expected an object, but got a string"),
    "unknown include": (body(include=["all"]), "include[0]", "invalid_value", "'message.input_image.image_url'"),
    "include as text": (body(include="all"), "include", "invalid_type", "expected an array, but got a string"),
    # answer format
    "text without format": (body(text={}), "text.format", "missing_required_parameter", "'text.format'"),
    "unknown format": (
        body(text={"format": {"type": "xml"}}),
        "text.format.type",
        "invalid_value",
        "Supported values are: 'text', 'json_object', and 'json_schema'.",
    ),
    "format with a field too many": (
        body(text={"format": {"type": "json_object", "schema": {}}}),
        "text.format.schema",
        "unknown_parameter",
        "Unknown parameter: 'text.format.schema'.",
    ),
    "schema without name": (
        body(text={"format": {"type": "json_schema", "schema": {}}}),
        "text.format.name",
        "missing_required_parameter",
        "'text.format.name'",
    ),
    "schema as text": (
        body(text={"format": {"type": "json_schema", "name": "n", "schema": "{}"}}),
        "text.format.schema",
        "invalid_type",
        "expected an object, but got a string instead.",
    ),
    # tools
    "tools as an object": (body(tools=FUNCTION), "tools", "invalid_type", "expected an array, but got an object"),
    "chat's function": (
        body(tools=[{"type": "function", "function": {"name": "f"}}]),
        "tools[0].name",
        "missing_required_parameter",
        "Missing required parameter: 'tools[0].name'.",
    ),
    "strict is null": (
        body(tools=[{**FUNCTION, "strict": None}]),
        "tools[0].strict",
        "invalid_type",
        "expected a boolean, but got null instead.",
    ),
    "unknown tool": (
        body(tools=[FUNCTION, {"type": "hammer"}]),
        "tools[1].type",
        "invalid_value",
        "Invalid value: 'hammer'. Supported values are: 'function', 'web_search_preview', ",
    ),
    "tool without type": (body(tools=[{}]), "tools[0].type", "missing_required_parameter", "'tools[0].type'"),
    "allowed tools as text": (
        body(tools=[{**MCP, "allowed_tools": "all"}]),
        "tools[0].allowed_tools",
        "invalid_type",
        "expected one of an array of strings or object, but got a string instead.",
    ),
    "allowed tool is a number": (
        body(tools=[{**MCP, "allowed_tools": ["a", 5]}]),
        "tools[0].allowed_tools[1]",
        "invalid_type",
        "expected a string, but got an integer instead.",
    ),
    "unknown approval": (
        body(tools=[{**MCP, "require_approval": "maybe"}]),
        "tools[0].require_approval",
        "invalid_value",
        "Supported values are: 'always' and 'never'.",
    ),
    "header is a number": (
        body(tools=[{**MCP, "headers": {"x-a": 5}}]),
        "tools[0].headers.x-a",
        "invalid_type",
        "a string",
    ),
    "choice is a number": (
        body(tool_choice=7),
        "tool_choice",
        "invalid_type",
        "expected one of 'none', 'auto', 'required', or object, but got an integer instead.",
    ),
    "unknown choice": (
        body(tool_choice="any"),
        "tool_choice",
        "invalid_value",
        "Invalid value: 'any'. Supported values are: 'none', 'auto', and 'required'.",
    ),
    "unknown choice of a tool": (body(tool_choice={"type": "hosted"}), "tool_choice.type", "invalid_value", "'mcp'"),
    "chat's choice": (
        body(tool_choice={"type": "function", "function": {"name": "f"}}),
        "tool_choice.name",
        "missing_required_parameter",
        "Missing required parameter: 'tool_choice.name'.",
    ),
    # prompt, conversation
    "prompt without id": (body(prompt={}), "prompt.id", "missing_required_parameter", "'prompt.id'"),
    "variable is a number": (
        body(prompt={"id": "p", "variables": {"a b": 5}}),
        "prompt.variables.a b",
        "invalid_type",
        "expected one of a string or object, but got an integer instead.",
    ),
    "variable is a bad part": (
        body(prompt={"id": "p", "variables": {"a": {"type": "input_text"}}}),
        "prompt.variables.a.text",
        "missing_required_parameter",
        "'prompt.variables.a.text'",
    ),
    "conversation is a number": (
        body(conversation=1),
        "conversation",
        "invalid_type",
        "expected one of a string or object, but got an integer instead.",
    ),
    # metadata
    "metadata as text": (body(metadata="x"), "metadata", "invalid_type", "expected an object, but got a string"),
    "metadata of numbers": (body(metadata={"k": 7}), "metadata.k", "invalid_type", "a string, but got an integer"),
    "metadata of nulls": (body(metadata={"k": None}), "metadata.k", "invalid_type", "a string, but got null"),
    "too much metadata": (
        body(metadata={str(n): "" for n in range(17)}),
        "metadata",
        "object_above_max_properties",
        "too many properties. Expected an object with at most 16 properties, but got an object with 17 properties",
    ),
    "long metadata": (
        body(metadata={"k": "v" * 513}),
        "metadata.k",
        "string_above_max_length",
        "string too long. Expected a string with maximum length 512, but got a string with length 513 instead.",
    ),
    "long metadata key": (
        body(metadata={"k" * 65: "v"}),
        "metadata",
        "property_name_above_max_length",
        "is too long. Expected a string with maximum length 64, but got a string with length 65 instead.",
    ),
    "NUL in metadata": (body(metadata={"k": "\0"}), "metadata.k", "invalid_value", "Invalid 'metadata.k': it must not"),
    "NUL in a metadata key": (
        body(metadata={"\0": "v"}),
        "metadata",
        "invalid_value",
        "Invalid property name in 'metadata': it must not contain the NUL character.",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_body_is_refused_by_the_field_that_is_wrong(name: str) -> None:
    sent, param, code, fragment = BAD[name]
    error = refusal(sent)
    assert (error.param, error.code) == (param, code)
    assert fragment in error.message
    assert isinstance(error, CallerError)
