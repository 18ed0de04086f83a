"""A conversation as input items."""

from typing import Any

import pytest

from api import request_items
from jobs.conversation import REPLAYED_TYPES, Turn, as_items, rebuild, replayed, user_message

MESSAGE = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": []}


def test_what_is_replayed_is_what_a_request_may_hold() -> None:
    assert {*request_items._CHECKED_TYPES, *request_items._OTHER_TYPES} == REPLAYED_TYPES


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
        ({"type": "future_call", "id": "ftr_1"}, False),
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
