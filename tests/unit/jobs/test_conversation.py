"""A conversation as input items."""

from typing import Any

import pytest

from jobs.conversation import Turn, as_items, of_use, rebuild, replayed, user_message

MESSAGE = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": []}


@pytest.mark.parametrize(
    ("input_", "items"),
    [
        ("Hello", [user_message("Hello")]),
        ("", []),
        ([], []),
        (None, []),
        ([{"role": "user", "content": "Hello"}], [{"role": "user", "content": "Hello"}]),
    ],
)
def test_an_input_is_items(input_: Any, items: list[dict[str, Any]]) -> None:
    assert as_items(input_) == items


@pytest.mark.parametrize(
    ("item", "goes_on"),
    [
        (MESSAGE, True),
        ({"type": "reasoning", "id": "rs_1", "summary": []}, False),
        ({"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": None}, False),
        ({"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAA"}, True),
        ({"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"}, True),
        ({"type": "future_call", "id": "ftr_1"}, True),
        ({"type": "acme:search_result", "id": "sr_1", "hits": []}, True),
        ({"id": "what"}, False),
    ],
)
def test_an_output_item_goes_on_or_not(item: dict[str, Any], goes_on: bool) -> None:
    assert replayed([item]) == ([item] if goes_on else [])


def test_turns_come_before_what_is_asked_now() -> None:
    turns = [Turn("resp_1", "One", [MESSAGE]), Turn("resp_2", [{"role": "developer", "content": "Two"}])]
    assert rebuild(turns, "Three") == [
        user_message("One"),
        MESSAGE,
        {"role": "developer", "content": "Two"},
        user_message("Three"),
    ]


CALL = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f", "arguments": "{}"}
CUT = {**CALL, "status": "incomplete", "arguments": '{"ci'}
OUTPUT = {"type": "function_call_output", "call_id": "call_1", "output": "x"}
LOST = {"type": "reasoning", "id": "rs_1", "summary": []}
KEPT = {"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": "gAAAA"}
USER = user_message("Go on")
FUTURE = {"type": "future_call", "id": "ftr_1"}


@pytest.mark.parametrize(
    ("items", "of_use_are"),
    [
        ([USER, KEPT, MESSAGE, USER], [USER, KEPT, MESSAGE, USER]),
        ([USER, LOST, MESSAGE, USER], [USER, MESSAGE, USER]),
        ([KEPT, KEPT, CALL, OUTPUT], [KEPT, KEPT, CALL, OUTPUT]),
        ([KEPT, LOST, CALL, OUTPUT], [KEPT, CALL, OUTPUT]),
        ([USER, KEPT, USER], [USER, USER]),
        ([CALL, KEPT, OUTPUT], [CALL, OUTPUT]),
        ([USER, KEPT], [USER]),
        ([KEPT, {"role": "assistant", "content": "Hello"}], [KEPT, {"role": "assistant", "content": "Hello"}]),
        ([KEPT, {"type": "item_reference", "id": "msg_1"}], [{"type": "item_reference", "id": "msg_1"}]),
        ([KEPT, FUTURE], [KEPT, FUTURE]),
        ([KEPT, CUT, USER], [USER]),
        ([KEPT, CUT, OUTPUT], [KEPT, CUT, OUTPUT]),
        ([KEPT, {**CUT, "type": "web_search_call"}, USER], [KEPT, {**CUT, "type": "web_search_call"}, USER]),
    ],
)
def test_what_the_provider_would_refuse_is_left_out(items: list[Any], of_use_are: list[Any]) -> None:
    assert of_use(items) == of_use_are


def test_reasoning_before_what_is_not_taken_back_is_left_out_as_well() -> None:
    turn = Turn("resp_1", "One", [KEPT, FUTURE])
    assert rebuild([turn], "Two", lambda item: item["type"] != "future_call") == [
        user_message("One"),
        user_message("Two"),
    ]
