"""An answer as server-sent events, in the order that the stream helpers of the official SDKs require."""

import json
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any, Final

from simulator.answers import Answer

_SMALLEST_DELTA: Final = 16
_DELTAS_PER_TEXT: Final = 64

Event = dict[str, Any]


def frame(event: Mapping[str, Any]) -> bytes:
    """Return an event as it is sent. An event without a type (a chunk that only carries cost) gets no event line."""
    data = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
    head = f"event: {event['type']}\n" if "type" in event else ""
    return f"{head}data: {data}\n\n".encode("utf-8", "replace")


class EventStream:
    """The three phases of a stream: its opening, its output, and its end. Take them in this order."""

    def __init__(self, answer: Answer, behaviour: str, delta_size: int | None) -> None:
        """Split texts into deltas of `delta_size` characters; None chooses a size."""
        self._answer = answer
        self._behaviour = behaviour
        self._delta_size = delta_size
        self._events_made = 0

    def _numbered(self, event: Event) -> Event:
        event["sequence_number"] = self._events_made
        self._events_made += 1
        return event

    def opening(self) -> list[Event]:
        """Return the events that are sent at once, before the answer is made."""
        unfinished = {
            **self._answer.body,
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "output": [],
            "usage": None,
        }
        unfinished.pop("output_text", None)
        return [
            self._numbered({"type": "response.created", "response": unfinished}),
            self._numbered({"type": "response.in_progress", "response": unfinished}),
        ]

    def middle(self) -> list[Event]:
        """Return the output, item by item and delta by delta."""
        events: list[Event] = []
        for index, item in enumerate(self._answer.body["output"] or ()):
            events += _item_events(item, index, self._delta_size)
        if self._behaviour == "unknown-items":
            events.append({"type": "response.future_thought.delta", "delta": "?"})
        return [self._numbered(event) for event in events]

    def ending(self) -> list[Event]:
        """Return the last event, which carries the cost."""
        event = self._numbered({"type": _terminal_type(self._answer.body), "response": self._answer.body})
        if "body" in self._answer.cost_places:
            event["meta"] = self._answer.meta
        return [event, {"meta": self._answer.meta}] if "chunk" in self._answer.cost_places else [event]


def error_event(code: str, message: str, *, after: Event) -> Event:
    """Return the event that ends a stream without a response."""
    number = after["sequence_number"] + 1
    return {"type": "error", "code": code, "message": message, "param": None, "sequence_number": number}


def _terminal_type(response: Mapping[str, Any]) -> str:
    status = response.get("status")
    return f"response.{status}" if status in ("failed", "incomplete") else "response.completed"


def _item_events(item: Mapping[str, Any], index: int, delta_size: int | None) -> Iterator[Event]:
    place = {"output_index": index, "item_id": item["id"]}
    begun = dict(item)
    if "status" in item:
        begun["status"] = "in_progress"
    match item["type"]:
        case "message":
            begun["content"] = []
        case "function_call":
            begun["arguments"] = ""
        case "custom_tool_call":
            begun["input"] = ""
    yield {"type": "response.output_item.added", "output_index": index, "item": begun}
    match item["type"]:
        case "message":
            for content_index, part in enumerate(item["content"]):
                yield from _part_events(part, {**place, "content_index": content_index}, delta_size)
        case "function_call":
            prefix = "response.function_call_arguments"
            yield from _deltas(prefix, item["arguments"], place, delta_size)
            yield {"type": f"{prefix}.done", **place, "arguments": item["arguments"], "name": item["name"]}
        case "custom_tool_call":
            prefix = "response.custom_tool_call_input"
            yield from _deltas(prefix, item["input"], place, delta_size)
            yield {"type": f"{prefix}.done", **place, "input": item["input"]}
        case "web_search_call":
            for state in ("in_progress", "searching", "completed"):
                yield {"type": f"response.web_search_call.{state}", **place}
    yield {"type": "response.output_item.done", "output_index": index, "item": item}


def _deltas(prefix: str, text: str, place: Mapping[str, Any], delta_size: int | None) -> Iterator[Event]:
    for piece in _pieces(text, delta_size):
        yield {"type": f"{prefix}.delta", **place, "delta": piece}


def _part_events(part: Mapping[str, Any], place: Mapping[str, Any], delta_size: int | None) -> Iterator[Event]:
    if part["type"] == "refusal":
        yield {"type": "response.content_part.added", **place, "part": {**part, "refusal": ""}}
        yield from _deltas("response.refusal", part["refusal"], place, delta_size)
        yield {"type": "response.refusal.done", **place, "refusal": part["refusal"]}
    else:
        logprobs = part.get("logprobs") or []
        starts = list(accumulate((len(each["token"]) for each in logprobs[:-1]), initial=0))
        empty: Event = {"logprobs": []} if "logprobs" in part else {}
        yield {"type": "response.content_part.added", **place, "part": {**part, "text": "", **empty}}
        end = 0
        for event in _deltas("response.output_text", part["text"], place, delta_size):
            begin, end = end, end + len(event["delta"])
            words = slice(bisect_left(starts, begin), bisect_left(starts, end))
            yield {**event, "logprobs": logprobs[words]}
        yield {"type": "response.output_text.done", **place, "text": part["text"], "logprobs": logprobs}
    yield {"type": "response.content_part.done", **place, "part": part}


def _pieces(text: str, size: int | None) -> Iterator[str]:
    size = size or max(_SMALLEST_DELTA, len(text) // _DELTAS_PER_TEXT)
    for start in range(0, len(text), size):
        yield text[start : start + size]
