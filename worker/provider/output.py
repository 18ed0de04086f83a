"""Normalisation of an answer's items to the shape that OpenAI's SDKs read.

AI/ML API gives `output: null` beside `output_text`, and finished messages whose status is `in_progress`. Gateways give
a text, or one object, in place of a list. The SDKs need the text in `output[].content[]`. Items and parts of an unknown
type pass through unchanged.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from worker.provider.item_ids import ItemIds

Item = dict[str, Any]

# Steps of a model, or of a tool that ran at the provider, on the way to an answer. Alone they are no output.
# Every other item counts as output, unknown ones too: a billed answer must not fail because of an unknown item.
_STEPS: Final = frozenset(
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
"""Fields that the SDKs' types and Open Responses allow an item to omit, but not to hold as null."""
_TEXT_PARTS: Final = frozenset({"output_text", "text"})
_PARTS: Final = _TEXT_PARTS | {"refusal"}
_WRITTEN: Final[Mapping[str, tuple[str, str | None]]] = {
    "function_call": ("arguments", "{}"),
    "mcp_call": ("arguments", None),
    "mcp_approval_request": ("arguments", None),
    "custom_tool_call": ("input", ""),
}
"""Text fields of items, with the value to use if the field is missing (None: leave it out). Some gateways send the JSON
value that such a text encodes."""


def normalise_output(
    raw: object, output_text: object, *, finished: str, seed: Callable[[], str], taken: Iterable[str] = ()
) -> list[Item]:
    """Return the items of a finished answer, each with ids of its own.

    `finished` replaces a status of `in_progress`: completed, or incomplete if the answer was cut. `seed` returns a word
    that is the same for the same answer. Ids are made of it for messages without one, and for items whose id another
    item has or that is among the `taken` identities.
    """
    ids = ItemIds(seed, taken)
    return [ids.assign(item, place) for place, item in enumerate(normalise_items(raw, output_text, finished=finished))]


def normalise_items(raw: object, output_text: object, *, finished: str) -> list[Item]:
    """Return the items with the provider's own ids, which may be missing or equal."""
    given = raw if isinstance(raw, list) else [raw]
    items = [_item(each, finished) for each in given if isinstance(each, Mapping) or (each and isinstance(each, str))]
    if isinstance(output_text, str) and output_text and not any(_has_text(item) for item in items):
        items.append(_message({"content": output_text}, finished))
    return items


def brings_output(items: Iterable[Item]) -> bool:
    """Return whether any item holds text, a refusal or a call that the client is to see."""
    return any(_has_text(item) if item.get("type") == "message" else item.get("type") not in _STEPS for item in items)


def as_text(value: object) -> str | None:
    """Return a text as it is, any other JSON value encoded as text, and None for null."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _item(raw: Mapping[str, Any] | str, finished: str) -> Item:
    if isinstance(raw, str):
        return _message({"content": raw}, finished)
    kind = raw.get("type")
    if kind is None and "content" in raw:
        kind = "message"
    elif kind in _PARTS if isinstance(kind, str) else "text" in raw:
        return _message({"content": [raw]}, finished)  # a part without the item around it
    item = {name: value for name, value in raw.items() if value is not None or name not in _NEVER_NULL}
    if kind == "message":
        return _message(item, finished)
    if not isinstance(kind, str):
        return item
    if kind in _CAN_BE_UNFINISHED and item.get("status") == "in_progress":
        item["status"] = finished
    if kind == "reasoning":
        item["summary"] = _texts(item.get("summary"), "summary_text")
        if "content" in item:
            item["content"] = _texts(item["content"], "reasoning_text")
    elif kind in _WRITTEN:
        name, empty = _WRITTEN[kind]
        text = as_text(item.get(name))
        if text is not None or empty is not None:
            item[name] = empty if text is None else text
    return item


def _message(raw: Mapping[str, Any], finished: str) -> Item:
    status, content = raw.get("status"), raw.get("content")
    parts = content if isinstance(content, list) else [content]
    return {
        **raw,
        "type": "message",
        "role": raw.get("role") or "assistant",
        "status": finished if status in (None, "in_progress") else status,
        "content": [_part(part) for part in parts if isinstance(part, Mapping) or (part and isinstance(part, str))],
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


def _texts(raw: object, kind: str) -> list[Any]:
    """Return parts of reasoning. A text becomes the one part that holds it."""
    given = raw if isinstance(raw, list) else [raw]
    texts = [{"type": kind, "text": each} if isinstance(each, str) else each for each in given if each]
    return [{"type": kind, **each} if isinstance(each, Mapping) else each for each in texts]


def _has_text(item: Item) -> bool:
    if item.get("type") != "message":
        return False
    return any(_is_not_empty(part) for part in item["content"])


def _is_not_empty(part: Item) -> bool:
    match part.get("type"):
        case "output_text":
            return bool(part["text"])
        case "refusal":
            return bool(part.get("refusal"))
        case _:
            return True
