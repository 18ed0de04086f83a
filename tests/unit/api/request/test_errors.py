"""Errors of wrong fields: the path to the field, and OpenAI's code and words."""

from typing import Any

import pytest

from jobs.errors import CallerError
from tests.unit.api.request.bodies import FUNCTION, MCP, body, item, refusal, user

BAD: dict[str, tuple[dict[str, Any], str, str, str]] = {
    # required fields
    "no model": ({"input": "x"}, "model", "missing_required_parameter", "Missing required parameter: 'model'."),
    "no input": ({"model": "m"}, "input", "missing_required_parameter", "One of 'input', 'previous_response_id'"),
    "chat's messages": (
        {"model": "m", "messages": [{"role": "user", "content": "x"}]},
        "input",
        "missing_required_parameter",
        "One of 'input', 'previous_response_id' or 'prompt' must be provided.",
    ),
    "null input": (body(input=None), "input", "missing_required_parameter", "One of 'input', 'previous_response_id'"),
    "null model": (body(model=None), "model", "invalid_type", "expected a string, but got null instead."),
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
    "item type is no text": (item(type=["message"]), "input[0].type", "invalid_type", "a string, but got an array"),
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
    "content of a wrong shape": (
        item(role="user", content={"type": "input_text", "text": "x"}),
        "input[0].content",
        "invalid_type",
        "expected one of a string or array of content parts, but got an object instead.",
    ),
    "null role": (item(role=None, content="x"), "input[0].role", "invalid_type", "expected a string, but got null"),
    "role as a number": (item(role=5, content="x"), "input[0].role", "invalid_type", "a string, but got an integer"),
    "text of an answer as a number": (
        item(role="assistant", content=[{"type": "output_text", "text": 5}]),
        "input[0].content[0].text",
        "invalid_type",
        "expected a string, but got an integer instead.",
    ),
    "arguments as an object": (
        item(type="function_call", call_id="c", name="f", arguments={}),
        "input[0].arguments",
        "invalid_type",
        "expected a string, but got an object instead.",
    ),
    "a function's result as a number": (
        item(type="function_call_output", call_id="c", output=5),
        "input[0].output",
        "invalid_type",
        "expected one of a string or array of content parts, but got an integer instead.",
    ),
    "image URL as an object": (
        user({"type": "input_text", "text": "x"}, {"type": "input_image", "image_url": {"url": "https://a"}}),
        "input[0].content[1].image_url",
        "invalid_type",
        "Invalid type for 'input[0].content[1].image_url': expected a string, but got an object instead.",
    ),
    "part without type": (
        user({"text": "x"}),
        "input[0].content[0].type",
        "missing_required_parameter",
        "Missing required parameter: 'input[0].content[0].type'.",
    ),
    "part is text": (user("x"), "input[0].content[0]", "invalid_type", "expected an object, but got a string"),
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
    "effort as a number": (body(reasoning={"effort": 5}), "reasoning.effort", "invalid_type", "expected a string"),
    "include of numbers": (body(include=["a", 5]), "include[1]", "invalid_type", "a string, but got an integer"),
    "temperature as text": (
        body(temperature="hot"),
        "temperature",
        "invalid_type",
        "expected a number, but got a string",
    ),
    "tier as a number": (body(service_tier=1), "service_tier", "invalid_type", "expected a string, but got an integer"),
    "reasoning as text": (body(reasoning="low"), "reasoning", "invalid_type", "expected an object, but got a string"),
    "include as text": (body(include="all"), "include", "invalid_type", "expected an array, but got a string"),
    # answer format
    "format as text": (body(text={"format": "json"}), "text.format", "invalid_type", "expected an object"),
    "format without type": (
        body(text={"format": {}}),
        "text.format.type",
        "missing_required_parameter",
        "'text.format.type'",
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
    "strict as text": (body(tools=[{**FUNCTION, "strict": "yes"}]), "tools[0].strict", "invalid_type", "a boolean"),
    "a function's parameters as text": (
        body(tools=[{**FUNCTION, "parameters": "{}"}]),
        "tools[0].parameters",
        "invalid_type",
        "expected an object, but got a string instead.",
    ),
    "tool without type": (body(tools=[{}]), "tools[0].type", "missing_required_parameter", "'tools[0].type'"),
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
    "chat's choice": (
        body(tool_choice={"type": "function", "function": {"name": "f"}}),
        "tool_choice.name",
        "missing_required_parameter",
        "Missing required parameter: 'tool_choice.name'.",
    ),
    # prompt, conversation
    "prompt without id": (body(prompt={}), "prompt.id", "missing_required_parameter", "'prompt.id'"),
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
def test_a_bad_body_is_refused_with_the_path_of_the_wrong_field(name: str) -> None:
    sent, param, code, fragment = BAD[name]
    error = refusal(sent)
    assert (error.param, error.code) == (param, code)
    assert fragment in error.message
    assert isinstance(error, CallerError)
