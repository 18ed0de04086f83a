"""The items of an answer, brought into the shape that OpenAI's SDKs read, and whether they say anything.

This provider gives `output: null` beside `output_text`, and finished messages that say `in_progress`; the SDKs need
the text in `output[].content[]`. Items and parts of a type that we do not know pass through as they are.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

Item = dict[str, Any]

# What a model, or a tool that ran at the provider, did on the way to an answer. Alone these bring a client nothing.
# Every other item counts as output, unknown ones too: a paid answer must not fail on what we have not heard of.
_MEANS: Final = frozenset(
    {
        "reasoning",
        "compaction",
        "web_search_call",
        "file_search_call",
        "mcp_list_tools",
        "tool_search_call",
        "tool_search_output",
    }
)
_CAN_BE_UNFINISHED: Final = frozenset({"message", "reasoning", "function_call", "custom_tool_call"})
_NEVER_NULL: Final = frozenset({"content", "encrypted_content", "phase", "status"})
"""Fields that the SDKs' types and Open Responses let an item leave out, and not hold as null."""
_TEXT_PARTS: Final = frozenset({"output_text", "text"})


def normalise_output(raw: object, output_text: object, *, finished: str, seed: Callable[[], str]) -> list[Item]:
    """The items of a finished answer.

    `finished` is what an item is that still says in_progress: completed, or incomplete when the answer was cut.
    `seed` gives a word that is the same for the same answer; ids are made of it where a message has none.
    """
    given = raw if isinstance(raw, list) else []
    items = [_item(each, place, finished, seed) for place, each in enumerate(given) if isinstance(each, Mapping)]
    if isinstance(output_text, str) and output_text and not any(_speaks(item) for item in items):
        items.append(_message({"content": output_text}, len(items), finished, seed))
    return items


def brings_output(items: list[Item]) -> bool:
    """Whether any item holds text, a refusal or a call that the client is to see."""
    return any(_speaks(item) if item.get("type") == "message" else item.get("type") not in _MEANS for item in items)


def _item(raw: Mapping[str, Any], place: int, finished: str, seed: Callable[[], str]) -> Item:
    kind = raw.get("type")
    if kind is None and "content" in raw:
        kind = "message"
    raw = {name: value for name, value in raw.items() if value is not None or name not in _NEVER_NULL}
    if kind == "message":
        return _message(raw, place, finished, seed)
    if kind in _CAN_BE_UNFINISHED and raw.get("status") == "in_progress":
        return {**raw, "status": finished}
    return dict(raw)


def _message(raw: Mapping[str, Any], place: int, finished: str, seed: Callable[[], str]) -> Item:
    status, content = raw.get("status"), raw.get("content")
    parts = content if isinstance(content, list) else [content]
    return {
        **raw,
        "id": raw.get("id") or f"msg_{seed()}{place:02x}",
        "type": "message",
        "role": raw.get("role") or "assistant",
        "status": finished if status in (None, "in_progress") else status,
        "content": [_part(part) for part in parts if isinstance(part, Mapping | str)],
    }


def _part(raw: Mapping[str, Any] | str) -> Item:
    part = {"text": raw} if isinstance(raw, str) else dict(raw)
    if part.get("type", "text") not in _TEXT_PARTS:
        return part
    text, annotations, logprobs = part.get("text"), part.get("annotations"), part.get("logprobs")
    return {
        **part,
        "type": "output_text",
        "text": text if isinstance(text, str) else "",
        "annotations": annotations if isinstance(annotations, list) else [],
        "logprobs": logprobs if isinstance(logprobs, list) else [],
    }


def _speaks(item: Item) -> bool:
    if item.get("type") != "message":
        return False
    return any(_says_something(part) for part in item["content"])


def _says_something(part: Item) -> bool:
    match part.get("type"):
        case "output_text":
            return bool(part["text"])
        case "refusal":
            return bool(part.get("refusal"))
        case _:
            return True
