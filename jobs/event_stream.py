"""A response as a sequence of stream events: the event types, the events emitted so far, and the remaining ones.

The stream helpers of the official SDKs define a valid sequence. Each item is added once, under the next free
`output_index` and with keys that no earlier item had. All events of an item come between its `added` and its `done`.
When the response completes, each open item must be part of it. Every function here keeps these rules, so a sequence can
continue after a lost attempt.

Sequence numbers are positions and not handled here. The sequence for an answer is part of the public contract: a client
may come back a week later with a number from an earlier release.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

Event = dict[str, Any]
Item = Mapping[str, Any]
OnEvents = Callable[[Sequence[Event]], None]
"""Receives the next events of an answer that belong together, such as all events of one tool call."""

LIVE_FROM: Final = 3
"""The number of the first event from a worker; `created`, `queued` and `in_progress` come before it."""

_SMALLEST_DELTA: Final = 32
_DELTAS_PER_TEXT: Final = 256

OUTPUT_TYPES: Final = frozenset(
    {
        "response.output_item.added",
        "response.output_item.done",
        "response.content_part.added",
        "response.content_part.done",
        "response.output_text.delta",
        "response.output_text.done",
        "response.output_text.annotation.added",
        "response.refusal.delta",
        "response.refusal.done",
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
        "response.reasoning_summary_part.added",
        "response.reasoning_summary_part.done",
        "response.reasoning_summary_text.delta",
        "response.reasoning_summary_text.done",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.custom_tool_call_input.delta",
        "response.custom_tool_call_input.done",
        "response.mcp_call_arguments.delta",
        "response.mcp_call_arguments.done",
        "response.mcp_call.in_progress",
        "response.mcp_call.completed",
        "response.mcp_call.failed",
        "response.mcp_list_tools.in_progress",
        "response.mcp_list_tools.completed",
        "response.mcp_list_tools.failed",
        "response.web_search_call.in_progress",
        "response.web_search_call.searching",
        "response.web_search_call.completed",
        "response.file_search_call.in_progress",
        "response.file_search_call.searching",
        "response.file_search_call.completed",
        "response.code_interpreter_call.in_progress",
        "response.code_interpreter_call.interpreting",
        "response.code_interpreter_call.completed",
        "response.code_interpreter_call_code.delta",
        "response.code_interpreter_call_code.done",
        "response.image_generation_call.in_progress",
        "response.image_generation_call.generating",
        "response.image_generation_call.partial_image",
        "response.image_generation_call.completed",
    }
)
"""Event types of an output item that are passed on. The SDKs know a few more, but older SDKs in use would misread
those, and an unknown type ends a Node client's stream."""

_CALLS: Final = frozenset({"function_call", "custom_tool_call", "shell_call", "shell_call_output"})
_RUN_BY_THE_PROVIDER: Final = frozenset(
    {"web_search_call", "file_search_call", "code_interpreter_call", "image_generation_call", "mcp_call"}
)
_NAMES: Final = ("id", "call_id")
_NAMELESS: Final = frozenset({"function_call", "custom_tool_call"})
# The text of an item is empty when it is added, and comes in deltas.
_TEXT_OF: Final[Mapping[str, Mapping[str, Any]]] = {
    "message": {"content": []},
    "reasoning": {"summary": []},
    "function_call": {"arguments": ""},
    "custom_tool_call": {"input": ""},
}


def identity_of(item: Item) -> frozenset[str]:
    """Return the keys that identify an item. Empty if it has no identity; such an item is never emitted."""
    kind, own, call = item.get("type"), item.get("id"), item.get("call_id")
    if not isinstance(kind, str):
        return frozenset()
    keys = set()
    if isinstance(own, str) and own:
        keys.add(f"id:{own}")
    elif kind not in _NAMELESS or "id" in item:
        return frozenset()
    if kind in _CALLS:
        if not isinstance(call, str) or not call:
            return frozenset()
        keys.add(f"call:{kind}:{call}")
    return frozenset(keys)


def is_for_the_client_to_run(item: object) -> bool:
    """Return whether a client may act on an item once it is done: a call of its own tool, or an approval request."""
    kind = item.get("type") if isinstance(item, Mapping) else None
    if not isinstance(kind, str) or kind in _RUN_BY_THE_PROVIDER:
        return False
    return kind.endswith("_call") or kind == "mcp_approval_request"


@dataclass
class EmittedItem:
    """One item that was emitted. `opened` is the item as it was added, or None once it is done."""

    identity: frozenset[str]
    opened: Item | None


@dataclass
class Progress:
    """The items emitted so far, in the order of their `output_index`."""

    items: list[EmittedItem] = field(default_factory=list)

    def has_emitted(self, item: Item) -> bool:
        """Return whether an item with one of the same keys was added."""
        keys = identity_of(item)
        return any(keys & each.identity for each in self.items)

    def to_json(self) -> list[list[Any]]:
        """Return the form in which it is stored beside the events."""
        return [[sorted(each.identity), each.opened] for each in self.items]

    @classmethod
    def from_json(cls, kept: Sequence[Sequence[Any]]) -> "Progress":
        """Return the progress that `to_json` stored."""
        return cls([EmittedItem(frozenset(keys), opened) for keys, opened, *_ in kept])  # older releases stored more


def closing_events(progress: Progress, answer: Sequence[Item] = ()) -> list[Event]:
    """Return the `done` events of all open items: as in `answer`, or empty if another attempt has replaced the item.

    An item never ends as `incomplete`: in Open Responses a completed response holds no incomplete item.
    """
    events = []
    for index, emitted in enumerate(progress.items):
        if emitted.opened is None:
            continue
        item = next((each for each in answer if _is_end_of(each, emitted, emitted.opened)), None)
        last = _emptied(emitted.opened) if item is None else _named_as(emitted.opened, item)
        events.append({"type": "response.output_item.done", "output_index": index, "item": last})
        emitted.opened = None
    return events


def _emptied(begun: Item) -> Item:
    return {**begun, "status": "completed"} if "status" in begun else begun


def _is_end_of(item: Item, emitted: EmittedItem, begun: Item) -> bool:
    return bool(identity_of(item) & emitted.identity) and item["type"] == begun["type"]


def _named_as(begun: Item, item: Item) -> Item:
    """Return `item` with the ids under which it was added, which an answer may have changed or completed."""
    renamed = {**item, **{name: begun[name] for name in _NAMES if name in begun}}
    return {name: each for name, each in renamed.items() if name in begun or name not in _NAMES}


def remaining_events(progress: Progress, answer: Sequence[Item]) -> Iterator[Event]:
    """Yield the events of an answer's items that were not emitted yet, which may be all of them."""
    yield from closing_events(progress, answer)
    index = len(progress.items)
    seen: set[str] = set()
    for item in answer:
        keys = identity_of(item)
        if not keys or keys & seen or progress.has_emitted(item):
            continue
        seen |= keys
        yield from _item_events(item, index)
        index += 1


def terminal_type(status: str) -> str:
    """Return the type of the last event. The SDKs have none for a cancelled response; its status says so."""
    return f"response.{status}" if status in ("completed", "incomplete") else "response.failed"


def opened(item: Item) -> Item:
    """Return the item as it is when it is added."""
    kind = item["type"]
    begun = {**item, **_TEXT_OF.get(kind, {})}
    if kind in _TEXT_OF and "status" in item:
        begun["status"] = "in_progress"
    if kind == "reasoning":
        begun.pop("encrypted_content", None)
        if "content" in item:
            begun["content"] = []
    return begun


def _item_events(item: Item, index: int) -> Iterator[Event]:
    kind = item["type"]
    place = {"output_index": index}
    yield {"type": "response.output_item.added", **place, "item": opened(item)}
    scope = {"item_id": item.get("id"), **place}
    match kind:
        case "message":
            yield from _parts_events(item.get("content"), scope)
        case "reasoning":
            yield from _summary_events(item.get("summary"), scope)
            yield from _parts_events(item.get("content"), scope)
        case "function_call" if item.get("id"):
            arguments = _text(item.get("arguments"))
            yield from _text_events("response.function_call_arguments", "arguments", arguments, scope)
        case "custom_tool_call" if item.get("id"):
            yield from _text_events("response.custom_tool_call_input", "input", _text(item.get("input")), scope)
    yield {"type": "response.output_item.done", **place, "item": dict(item)}


def _parts_events(parts: object, scope: Mapping[str, Any]) -> Iterator[Event]:
    for content_index, part in enumerate(_mappings(parts)):
        yield from part_events(part, {**scope, "content_index": content_index})


def part_events(part: Mapping[str, Any], place: Mapping[str, Any]) -> Iterator[Event]:
    """Yield the events of one part of a message or of reasoning; `place` holds the indices for each event."""
    kind = part.get("type")
    if kind == "output_text":
        text = _text(part.get("text"))
        yield {
            "type": "response.content_part.added",
            **place,
            "part": {**part, "text": "", "annotations": [], "logprobs": []},
        }
        last = None
        for event in _text_events("response.output_text", "text", text, place):
            if last is not None:
                yield {**last, "logprobs": []}
            last = event
        for number, annotation in enumerate(_mappings(part.get("annotations"))):
            added = {"annotation_index": number, "annotation": dict(annotation)}
            yield {"type": "response.output_text.annotation.added", **place, **added}
        if last is not None:
            yield {**last, "logprobs": part.get("logprobs") or []}
    elif kind in ("refusal", "reasoning_text"):
        name = "refusal" if kind == "refusal" else "text"
        yield {"type": "response.content_part.added", **place, "part": {**part, name: ""}}
        yield from _text_events(f"response.{kind}", name, _text(part.get(name)), place)
    else:
        yield {"type": "response.content_part.added", **place, "part": dict(part)}
    yield {"type": "response.content_part.done", **place, "part": dict(part)}


def _summary_events(summary: object, scope: Mapping[str, Any]) -> Iterator[Event]:
    for summary_index, part in enumerate(_mappings(summary)):
        yield from summary_part_events(part, {**scope, "summary_index": summary_index})


def summary_part_events(part: Mapping[str, Any], place: Mapping[str, Any]) -> Iterator[Event]:
    """Yield the events of one part of a reasoning summary; otherwise as `part_events`."""
    yield {"type": "response.reasoning_summary_part.added", **place, "part": {**part, "text": ""}}
    yield from _text_events("response.reasoning_summary_text", "text", _text(part.get("text")), place)
    yield {"type": "response.reasoning_summary_part.done", **place, "part": dict(part)}


def _text_events(prefix: str, name: str, text: str, place: Mapping[str, Any]) -> Iterator[Event]:
    size = max(_SMALLEST_DELTA, -(-len(text) // _DELTAS_PER_TEXT))
    for start in range(0, len(text), size):
        yield {"type": f"{prefix}.delta", **place, "delta": text[start : start + size]}
    yield {"type": f"{prefix}.done", **place, name: text}


def _mappings(value: object) -> list[Mapping[str, Any]]:
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
