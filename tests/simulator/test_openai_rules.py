"""`--rules openai`: OpenAI's rules on ids, reasoning, calls and outputs, with its words and its error shape."""

from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.simulator.provider import Provider

Json = dict[str, Any]

TOOL: Final = {"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": False}
USER: Final = {"role": "user", "content": "Hello"}
ENCRYPTED: Final = {"include": ["reasoning.encrypted_content"]}


@pytest.fixture
def openai_like(provider: Provider) -> Iterator[Provider]:
    provider.configure(rules="openai")
    yield provider
    provider.reset()


def answer(provider: Provider, **fields: Any) -> list[Json]:
    """Return the reasoning and the call of an answer."""
    asked = provider.ask("Please look.", tools=[TOOL], tool_choice="required", **fields)
    output: list[Json] = asked.json()["output"]
    assert [item["type"] for item in output] == ["reasoning", "function_call"]
    return output


def refused(provider: Provider, *items: Json) -> tuple[str, str | None, str | None]:
    reply = provider.ask([*items])
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert error["type"] == "invalid_request_error"
    return error["message"], error["param"], error["code"]


def output_of(call: Json) -> Json:
    return {"type": "function_call_output", "call_id": call["call_id"], "output": "here"}


def test_a_valid_tool_loop_is_accepted(openai_like: Provider) -> None:
    reasoning, call = answer(openai_like, **ENCRYPTED)
    assert openai_like.ask([USER, reasoning, call, output_of(call)]).status_code == 200
    del call["id"]
    assert openai_like.ask([USER, call, output_of(call)]).status_code == 200


def test_reasoning_and_its_items_belong_together(openai_like: Provider) -> None:
    reasoning, call = answer(openai_like, **ENCRYPTED)
    rs, fc = reasoning["id"], call["id"]
    lacks = f"Item '{fc}' of type 'function_call' was provided without its required 'reasoning' item: '{rs}'."
    assert refused(openai_like, USER, call, output_of(call)) == (lacks, "input", None)
    alone = f"Item '{rs}' of type 'reasoning' was provided without its required following item."
    assert refused(openai_like, USER, reasoning) == (alone, "input", None)
    assert refused(openai_like, reasoning, USER) == (alone, "input", None)


def test_reasoning_is_known_by_its_encrypted_content_alone(openai_like: Provider) -> None:
    reasoning, call = answer(openai_like)
    message, *_ = refused(openai_like, reasoning, call, output_of(call))
    assert message.startswith(f"Item with id '{reasoning['id']}' not found. Items are not persisted when `store`")
    message, _, code = refused(openai_like, {**reasoning, "encrypted_content": "gAAAA"}, call, output_of(call))
    assert message.startswith(f"The encrypted content for item {reasoning['id']} could not be verified.")
    assert code == "invalid_encrypted_content"
    message, *_ = refused(openai_like, {"type": "item_reference", "id": call["id"]})
    assert message.startswith(f"Item with id '{call['id']}' not found.")


CALL: Final[Json] = {"type": "function_call", "call_id": "call_1", "name": "look", "arguments": "{}"}
OUT: Final[Json] = {"type": "function_call_output", "call_id": "call_1", "output": "here"}
SEARCH: Final[Json] = {"type": "web_search_call", "status": "completed", "action": {"type": "search", "query": "x"}}
LONG: Final = "call_" + "x" * 60
TOO_LONG: Final = "string too long. Expected a string with maximum length 64, but got a string with length 65 instead."
WORDS: Final[dict[str, tuple[list[Json], str]]] = {
    "Invalid 'input[0].id': 'call_1'. Expected an ID that begins with 'fc'.": (
        [{**CALL, "id": "call_1"}, OUT],
        "invalid_id_prefix",
    ),
    f"Invalid 'input[0].id': {TOO_LONG}": ([{**CALL, "id": "fc_" + "x" * 62}, OUT], "string_above_max_length"),
    "Invalid 'input[1].id': ''. Expected an ID that contains letters, numbers, underscores, or dashes, but this value"
    " contained additional characters.": ([USER, {**CALL, "id": ""}, OUT], "invalid_value"),
    "Duplicate item found with id fc_1. Remove duplicate items from your input and try again.": (
        [{**CALL, "id": "fc_1"}, OUT, {**CALL, "id": "fc_1"}],
        "",
    ),
    f"Invalid 'input[0].call_id': {TOO_LONG}": (
        [{**CALL, "call_id": LONG}, {**OUT, "call_id": LONG}],
        "string_above_max_length",
    ),
    "Invalid 'input[0].call_id': empty string. Expected a string with minimum length 1, but got an empty string"
    " instead.": ([{**CALL, "call_id": ""}, {**OUT, "call_id": ""}], "empty_string"),
    "Invalid type for 'input[0].status': expected one of 'in_progress', 'completed', or 'incomplete', but got null"
    " instead.": ([{**CALL, "status": None}, OUT], "invalid_type"),
    "Invalid value: 'failed'. Supported values are: 'in_progress', 'completed', and 'incomplete'.": (
        [{**CALL, "status": "failed"}, OUT],
        "invalid_value",
    ),
    "Missing required parameter: 'input[0].id'.": ([SEARCH], "missing_required_parameter"),
    "No tool output found for function call call_1.": ([CALL], ""),
    "No tool call found for function call output with call_id call_1.": ([OUT], ""),
}


@pytest.mark.parametrize("message", WORDS)
def test_openais_refusals_have_its_words(openai_like: Provider, message: str) -> None:
    items, code = WORDS[message]
    reply, _, named = refused(openai_like, *items)
    assert (reply, named or "") == (message, code)
