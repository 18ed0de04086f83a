"""Events in the order of their numbers, each once."""

import json
from typing import Any

from worker.provider.event_order import EventOrder


def emitted(*numbers: int) -> list[int]:
    order = EventOrder()
    found = [each for number in numbers for each in order.take(*event(number))]
    return [each["sequence_number"] for each in [*found, *order.flush()]]


def event(number: int) -> tuple[dict[str, Any], bytes]:
    value = {"type": "response.output_text.delta", "delta": "x", "sequence_number": number}
    return value, json.dumps(value).encode()


def test_a_duplicate_event_is_returned_once() -> None:
    assert emitted(1, 2, 2, 3, 2) == [1, 2, 3]


def test_an_overtaken_event_is_returned_in_its_place() -> None:
    assert emitted(1, 3, 4, 2, 5) == [1, 2, 3, 4, 5]


def test_if_every_number_is_zero_equal_pieces_are_no_duplicates() -> None:
    assert emitted(0, 0, 0) == [0, 0, 0]
