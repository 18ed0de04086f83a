"""The sequence that is made from an answer: what a helper accepts, and what no later release may change."""

from typing import Any

import pytest

from jobs.event_stream import (
    OUTPUT_TYPES,
    EmittedItem,
    Event,
    Progress,
    closing_events,
    identity_of,
    opened,
    remaining_events,
    terminal_type,
)

Item = dict[str, Any]

MESSAGE: Item = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "status": "completed",
    "content": [
        {
            "type": "output_text",
            "text": "See there.",
            "annotations": [{"type": "url_citation", "url": "https://example.com", "start_index": 4, "end_index": 9}],
            "logprobs": [{"token": "See", "logprob": -0.1}],
        },
        {"type": "refusal", "refusal": "No more."},
        {"type": "output_audio", "data": "AAAA"},
    ],
}
REASONING: Item = {
    "id": "rs_1",
    "type": "reasoning",
    "summary": [{"type": "summary_text", "text": "Thought."}],
    "content": [{"type": "reasoning_text", "text": "At length."}],
    "encrypted_content": "encrypted",
}
FUNCTION: Item = {
    "id": "fc_1",
    "type": "function_call",
    "status": "completed",
    "call_id": "call_1",
    "name": "look",
    "arguments": "{}",
}
CUSTOM: Item = {"id": "ctc_1", "type": "custom_tool_call", "call_id": "call_2", "name": "run", "input": "ls"}
SEARCH: Item = {"id": "ws_1", "type": "web_search_call", "status": "completed", "action": {"type": "search"}}
FUTURE: Item = {"id": "ftr_1", "type": "future_call", "payload": [1, 2]}


def made(*items: Item, progress: Progress | None = None) -> list[Event]:
    events = list(remaining_events(progress or Progress(), items))
    assert {each["type"] for each in events} <= OUTPUT_TYPES
    return events


def kinds(events: list[Event]) -> list[str]:
    return [each["type"].removeprefix("response.") for each in events]


@pytest.mark.parametrize(
    ("item", "emitted"),
    [
        (
            MESSAGE,
            [
                "output_item.added",
                "content_part.added",
                "output_text.delta",
                "output_text.annotation.added",
                "output_text.done",
                "content_part.done",
                "content_part.added",
                "refusal.delta",
                "refusal.done",
                "content_part.done",
                "content_part.added",
                "content_part.done",
                "output_item.done",
            ],
        ),
        (
            REASONING,
            [
                "output_item.added",
                "reasoning_summary_part.added",
                "reasoning_summary_text.delta",
                "reasoning_summary_text.done",
                "reasoning_summary_part.done",
                "content_part.added",
                "reasoning_text.delta",
                "reasoning_text.done",
                "content_part.done",
                "output_item.done",
            ],
        ),
        (
            FUNCTION,
            [
                "output_item.added",
                "function_call_arguments.delta",
                "function_call_arguments.done",
                "output_item.done",
            ],
        ),
        (
            CUSTOM,
            [
                "output_item.added",
                "custom_tool_call_input.delta",
                "custom_tool_call_input.done",
                "output_item.done",
            ],
        ),
        ({**FUNCTION, "id": None}, []),
        ({each: FUNCTION[each] for each in FUNCTION if each != "id"}, ["output_item.added", "output_item.done"]),
        (SEARCH, ["output_item.added", "output_item.done"]),
        (FUTURE, ["output_item.added", "output_item.done"]),
        ({"type": "reasoning", "summary": []}, []),  # without an id nobody could tell what its events belong to
    ],
)
def test_each_kind_of_item_has_its_events(item: Item, emitted: list[str]) -> None:
    events = made(item)
    assert kinds(events) == emitted
    if events:
        assert events[-1]["item"] == item
        assert {each["output_index"] for each in events} == {0}
        assert all(each["item_id"] == item["id"] for each in events if "item_id" in each)


def test_what_an_item_says_comes_after_it_was_added() -> None:
    assert opened(MESSAGE) == {**MESSAGE, "status": "in_progress", "content": []}
    assert opened(FUNCTION) == {**FUNCTION, "status": "in_progress", "arguments": ""}
    assert opened(REASONING) == {"id": "rs_1", "type": "reasoning", "summary": [], "content": []}
    assert opened(SEARCH) == SEARCH


@pytest.mark.parametrize(
    ("length", "sizes"),
    [
        (0, []),
        (1, [1]),
        (32, [32]),
        (33, [32, 1]),
        (8192, [32] * 256),
        (8193, [33] * 248 + [9]),
        (26_000, [102] * 254 + [92]),
    ],
)
def test_a_text_is_cut_as_it_always_was(length: int, sizes: list[int]) -> None:
    """A client may come back with a number that it was given under an earlier release."""
    text = "".join(chr(97 + place % 26) for place in range(length))
    message = {**MESSAGE, "content": [{"type": "output_text", "text": text, "annotations": []}]}
    deltas = [each["delta"] for each in made(message) if each["type"].endswith(".delta")]
    assert [len(each) for each in deltas] == sizes
    assert "".join(deltas) == text


def test_items_follow_one_another_by_index() -> None:
    events = made(REASONING, MESSAGE, FUNCTION, SEARCH)
    added = [each for each in events if each["type"] == "response.output_item.added"]
    assert [(each["output_index"], each["item"]["id"]) for each in added] == [
        (0, "rs_1"),
        (1, "msg_1"),
        (2, "fc_1"),
        (3, "ws_1"),
    ]


def test_an_emitted_item_is_not_emitted_again() -> None:
    emitted = Progress([EmittedItem(identity_of(REASONING), None), EmittedItem(identity_of(MESSAGE), opened(MESSAGE))])
    events = made(REASONING, MESSAGE, FUNCTION, progress=emitted)
    assert kinds(events)[0] == "output_item.done"
    assert (events[0]["output_index"], events[0]["item"]) == (1, MESSAGE)
    assert {each["output_index"] for each in events[1:]} == {2}
    assert events[-1]["item"] == FUNCTION


def test_what_another_attempt_has_replaced_is_closed_empty_and_not_as_incomplete() -> None:
    lost = {**MESSAGE, "id": "msg_0"}
    progress = Progress([EmittedItem(identity_of(lost), opened(lost))])
    events = made(MESSAGE, progress=progress)
    assert events[0] == {
        "type": "response.output_item.done",
        "output_index": 0,
        "item": {**lost, "status": "completed", "content": []},
    }
    assert events[1]["output_index"] == 1
    assert closing_events(progress) == []


def test_two_items_of_one_identity_are_emitted_once() -> None:
    assert made(MESSAGE, MESSAGE) == made(MESSAGE)
    again = {**FUNCTION, "id": "fc_2"}  # the same call under another id
    assert made(FUNCTION, again) == made(FUNCTION)


def test_progress_is_kept() -> None:
    progress = Progress([EmittedItem(identity_of(MESSAGE), opened(MESSAGE)), EmittedItem(identity_of(SEARCH), None)])
    assert Progress.from_json(progress.to_json()) == progress


def test_every_status_has_an_end_that_every_sdk_knows() -> None:
    ends = {status: terminal_type(status) for status in ("completed", "incomplete", "failed", "cancelled")}
    assert set(ends.values()) <= {"response.completed", "response.failed", "response.incomplete"}
    assert ends["cancelled"] == ends["failed"] == "response.failed"
