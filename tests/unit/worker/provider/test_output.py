"""Items in the shape that OpenAI's SDKs read."""

from typing import Any

import pytest

from worker.provider.output import brings_output, normalise_output

REASONING = {"id": "rs_1", "type": "reasoning", "summary": []}
TEXT = {"type": "output_text", "text": "Hi", "annotations": [], "logprobs": []}


def message(*parts: Any, **fields: Any) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": list(parts),
        **fields,
    }


def read(raw: object, output_text: object = None, finished: str = "completed") -> list[dict[str, Any]]:
    return normalise_output(raw, output_text, finished=finished, seed=lambda: "5eed")


@pytest.mark.parametrize(
    ("raw", "output_text", "items"),
    [
        (None, "Hi", [message(TEXT, id="msg_5eed00")]),
        ([], "Hi", [message(TEXT, id="msg_5eed00")]),
        ([REASONING], "Hi", [REASONING, message(TEXT, id="msg_5eed01")]),
        ([message()], "Hi", [message(), message(TEXT, id="msg_5eed01")]),
        ([message(TEXT)], "something else", [message(TEXT)]),
        ([message({"type": "refusal", "refusal": "No."})], "", [message({"type": "refusal", "refusal": "No."})]),
        (None, None, []),
        (None, "", []),
        (7, 7, []),
        (message(TEXT), None, [message(TEXT)]),
        ("Hi", None, [message(TEXT, id="msg_5eed00")]),
        (TEXT, None, [message(TEXT, id="msg_5eed00")]),
        (["Hi", None, 7, REASONING], None, [message(TEXT, id="msg_5eed00"), REASONING]),
    ],
)
def test_the_text_stands_in_an_item(raw: object, output_text: object, items: list[dict[str, Any]]) -> None:
    assert read(raw, output_text) == items


@pytest.mark.parametrize(
    ("raw", "normalised"),
    [
        (message({"type": "output_text", "text": "Hi"}), message(TEXT)),
        (message({"type": "output_text", "text": "Hi", "annotations": None, "logprobs": None}), message(TEXT)),
        (message({"type": "text", "text": "Hi"}), message(TEXT)),
        (message({"text": "Hi"}), message(TEXT)),
        (message("Hi"), message(TEXT)),
        (message(TEXT, content="Hi"), message(TEXT)),
        (message(TEXT, content=None), message()),
        (message({"type": "output_text", "text": None}), message({**TEXT, "text": ""})),
        (message({"type": "output_audio", "data": "..."}, None, 7), message({"type": "output_audio", "data": "..."})),
        (
            message({**TEXT, "annotations": [{"type": "url_citation"}]}),
            message({**TEXT, "annotations": [{"type": "url_citation"}]}),
        ),
        ({"content": [TEXT]}, message(TEXT, id="msg_5eed00")),
        (message(TEXT, phase="final"), message(TEXT, phase="final")),
    ],
)
def test_messages(raw: dict[str, Any], normalised: dict[str, Any]) -> None:
    assert read([raw]) == [normalised]


@pytest.mark.parametrize(
    ("item", "given", "finished", "then"),
    [
        ({"type": "message", "content": []}, "in_progress", "completed", "completed"),
        ({"type": "message", "content": []}, None, "completed", "completed"),
        ({"type": "message", "content": []}, "in_progress", "incomplete", "incomplete"),
        ({"type": "message", "content": []}, "incomplete", "completed", "incomplete"),
        ({"type": "function_call"}, "in_progress", "completed", "completed"),
        ({"type": "reasoning"}, "in_progress", "completed", "completed"),
        ({"type": "future_call"}, "in_progress", "completed", "in_progress"),
    ],
)
def test_nothing_is_in_progress_after_the_end(
    item: dict[str, Any], given: str | None, finished: str, then: str
) -> None:
    assert read([{**item, "status": given}], finished=finished)[0]["status"] == then


@pytest.mark.parametrize(
    ("raw", "normalised"),
    [
        ({"arguments": {"city": "Zürich", "n": 1.0}}, {"arguments": '{"city":"Zürich","n":1.0}'}),
        ({"arguments": '{"a": 1}'}, {"arguments": '{"a": 1}'}),
        ({"arguments": None}, {"arguments": "{}"}),
        ({}, {"arguments": "{}"}),
        ({"type": "custom_tool_call", "input": {"a": []}}, {"input": '{"a":[]}'}),
        ({"type": "mcp_call", "arguments": {}}, {"arguments": "{}"}),
        ({"type": "reasoning"}, {"summary": []}),
        ({"type": "reasoning", "summary": None, "content": None}, {"summary": []}),
        ({"type": "reasoning", "summary": "Hm."}, {"summary": [{"type": "summary_text", "text": "Hm."}]}),
        ({"type": "reasoning", "summary": [{"text": "Hm."}]}, {"summary": [{"type": "summary_text", "text": "Hm."}]}),
        ({"type": "reasoning", "content": "Hm."}, {"content": [{"type": "reasoning_text", "text": "Hm."}]}),
    ],
)
def test_fields_have_the_shape_that_the_sdks_read(raw: dict[str, Any], normalised: dict[str, Any]) -> None:
    [item] = read([{"type": "function_call", "id": "x_1", "call_id": "call_1", **raw}])
    assert {name: item.get(name) for name in normalised} == normalised
    assert item.get("content", []) is not None


def test_no_two_items_have_the_same_id() -> None:
    call = {"type": "function_call", "id": "msg_0", "call_id": "0", "name": "f", "arguments": "{}"}
    items = read([message(TEXT, id="msg_0"), message(TEXT, id="msg_0"), {**REASONING, "id": "msg_0"}, call, call])
    assert [each["id"] for each in items] == ["msg_0", "msg_5eed01", "rs_5eed02", "fc_5eed03", "fc_5eed04"]
    assert [each["call_id"] for each in items[3:]] == ["0", "call_5eed04"]


def test_a_call_without_a_call_id_gets_one() -> None:
    [one, two] = read([{"type": "function_call", "id": "fc_1"}, {"type": "custom_tool_call"}])
    assert (one["call_id"], two["call_id"]) == ("fc_1", "call_5eed01")
    assert "id" not in two


def test_unknown_items_pass_through() -> None:
    unknown = {"type": "future_call", "payload": {"level": [1, None]}, "content": "not a message's"}
    assert read([unknown, REASONING]) == [unknown, REASONING]


@pytest.mark.parametrize(
    ("item", "brings"),
    [
        (message(TEXT), True),
        (message({**TEXT, "text": " "}), True),
        (message({**TEXT, "text": ""}), False),
        (message(), False),
        (message({"type": "refusal", "refusal": "No."}), True),
        (message({"type": "refusal", "refusal": ""}), False),
        (message({"type": "output_audio"}), True),
        ({"type": "function_call"}, True),
        ({"type": "custom_tool_call"}, True),
        ({"type": "mcp_approval_request"}, True),
        ({"type": "mcp_call"}, True),
        ({"type": "computer_call"}, True),
        ({"type": "image_generation_call"}, True),
        ({"type": "code_interpreter_call"}, True),
        ({"type": "future_call"}, True),
        (REASONING, False),
        ({"type": "web_search_call"}, False),
        ({"type": "file_search_call"}, False),
        ({"type": "mcp_list_tools"}, False),
    ],
)
def test_what_counts_as_output(item: dict[str, Any], brings: bool) -> None:
    assert brings_output([REASONING, item]) is brings
