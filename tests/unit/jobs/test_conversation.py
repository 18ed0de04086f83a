"""A conversation as input items."""

from typing import Any

import pytest

from jobs.conversation import Turn, as_items, rebuild, replayed, user_message

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


def test_what_followed_reasoning_that_does_not_go_on_has_no_id() -> None:
    call = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f", "arguments": "{}"}
    request = {"type": "mcp_approval_request", "id": "mcpr_1", "name": "f", "server_label": "s", "arguments": "{}"}
    lost = {"type": "reasoning", "id": "rs_1", "summary": []}
    kept = {"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": "gAAAA"}
    turn = Turn("resp_1", "", [MESSAGE, lost, call, request, kept, MESSAGE])
    without_id = {name: value for name, value in call.items() if name != "id"}
    assert rebuild([turn], "") == [MESSAGE, without_id, request, kept, MESSAGE]
