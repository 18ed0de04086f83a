"""Input items as `responses.input_items.list` returns them: in full form, each with a stable id."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from jobs.conversation import Item, Turn, as_items, kind_of, replayed
from jobs.request_fields import ENCRYPTED_REASONING

IMAGE_URL: Final = "message.input_image.image_url"
SCREENSHOT_URL: Final = "computer_call_output.output.image_url"

_PREFIXES: Final[Mapping[str, str]] = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "function_call_output": "fco",
    "web_search_call": "ws",
    "mcp_call": "mcp",
    "mcp_list_tools": "mcpl",
    "mcp_approval_request": "mcpr",
    "mcp_approval_response": "mcpa",
}
_WITH_STATUS: Final = frozenset({"message", "function_call", "function_call_output"})


def list_items(turns: Iterable[Turn], own: Turn, include: Collection[str]) -> list[Item]:
    """Return all items that a response was made from, oldest first: those of earlier turns, then its own input."""
    items: list[Item] = []
    taken: set[str] = set()
    for turn in turns:
        _append(items, taken, turn.response_id, "", as_items(turn.input), include)
        _append(items, taken, turn.response_id, "o", replayed(turn.output), include)
    _append(items, taken, own.response_id, "", as_items(own.input), include)
    return items


def page_of(
    items: Sequence[Item], *, limit: int, after: str | None, before: str | None
) -> tuple[Sequence[Item], bool] | None:
    """Return the items after `after`, or those before `before`, and whether there are more; None for an unknown id.

    With both, return the items between them, starting after `after`.
    """
    indexes = {item["id"]: index for index, item in enumerate(items)}
    if any(cursor is not None and cursor not in indexes for cursor in (after, before)):
        return None
    start = 0 if after is None else indexes[after] + 1
    end = len(items) if before is None else indexes[before]
    if after is None and before is not None:
        return items[max(end - limit, 0) : end], end > limit
    return items[start : max(min(start + limit, end), start)], end - start > limit


def _append(
    items: list[Item], taken: set[str], response_id: str, kind: str, given: Iterable[Item], include: Collection[str]
) -> None:
    for index, item in enumerate(given):
        whole = _whole(item, include)
        name = whole.get("id")
        if not isinstance(name, str) or not name or name in taken:  # a cursor must name one item
            prefix = _PREFIXES.get(whole["type"], "item")
            name = f"{prefix}_{response_id.removeprefix('resp_')}{kind}{index:04x}"
        while name in taken:
            name += "_"
        taken.add(name)
        items.append({"id": name, **{key: value for key, value in whole.items() if key != "id"}})


def _whole(item: Item, include: Collection[str]) -> Item:
    kind = kind_of(item) or "item_reference"
    whole = {
        **{name: value for name, value in item.items() if value is not None or kind not in _PREFIXES},
        "type": kind,
    }
    if kind in _WITH_STATUS:
        whole["status"] = item.get("status") or "completed"
    if kind == "message":
        whole["content"] = _content(item.get("role"), item.get("content"), include)
    elif kind == "reasoning":
        whole.setdefault("summary", [])
        if ENCRYPTED_REASONING not in include:
            whole.pop("encrypted_content", None)
    elif kind == "computer_call_output" and isinstance(item.get("output"), dict) and SCREENSHOT_URL not in include:
        whole["output"] = {key: value for key, value in item["output"].items() if key != "image_url"}
    return whole


def _content(role: object, content: object, include: Collection[str]) -> list[Any]:
    if isinstance(content, str):
        if role == "assistant":
            return [{"type": "output_text", "text": content, "annotations": []}]
        return [{"type": "input_text", "text": content}]
    parts = content if isinstance(content, list) else []
    return [_part(part, include) for part in parts]


def _part(part: Any, include: Collection[str]) -> Any:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind not in ("input_image", "output_text"):
        return part
    whole = {name: value for name, value in part.items() if value is not None}
    if kind == "output_text":
        return {"annotations": [], **whole}
    whole = {"detail": "auto", **whole}
    return whole if IMAGE_URL in include else {**whole, "image_url": None}
