"""A conversation as input items: the inputs and answers of the earlier turns, then the input of this one.

The provider stores nothing, so each turn is sent with everything before it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

Item = dict[str, Any]

_OF_CLIENTS: Final = frozenset(
    {"additional_tools", "compaction_trigger", "configuration_update", "item_reference", "mcp_approval_response"}
)
_ANSWERED_BY_CLIENTS: Final = frozenset({"function_call", "custom_tool_call"})


@dataclass(frozen=True)
class Turn:
    """One response of a conversation: input, output, and the encrypted credentials that the input shows as `***`."""

    response_id: str
    input: Any
    output: Sequence[Mapping[str, Any]] = ()
    credentials: str | None = None


def rebuild(
    turns: Iterable[Turn], input_: Any, is_taken: Callable[[Mapping[str, Any]], bool] = lambda _item: True
) -> list[Item]:
    """Return the items of the `turns`, oldest first, then those of `input_`; outputs only where `is_taken`."""
    items: list[Item] = []
    for turn in turns:
        items += as_items(turn.input)
        items += (dict(item) for item in turn.output if isinstance(item.get("type"), str) and is_taken(item))
    return of_use(items + as_items(input_))


def of_use(items: Sequence[Item]) -> list[Item]:
    """Return the items without those for which a provider that stores nothing would refuse the whole conversation.

    These are reasoning without its encrypted content, as its id alone cannot be looked up; a tool call that was cut
    off, as it cannot be answered; and reasoning without an item after it, as its turn ended too early.
    """
    answered = {item.get("call_id") for item in items if (kind_of(item) or "").endswith("_output")}
    kept = [item for item in items if not _is_lost_reasoning(item) and not _was_cut(item, answered)]
    used: list[Item] = []
    leads_on = False
    for item in reversed(kept):
        if item.get("type") == "reasoning":
            if leads_on:
                used.append(item)
        else:
            leads_on = is_of_the_model(item)
            used.append(item)
    used.reverse()
    return used


def is_of_the_model(item: Mapping[str, Any]) -> bool:
    """Return whether the model, or a tool at the provider, made an item, and not the client."""
    kind = kind_of(item) or ""
    if kind == "message":
        return item.get("role") == "assistant"
    return kind not in _OF_CLIENTS and not kind.endswith("_output")


def as_items(input_: Any) -> list[Item]:
    """Return a request's input as items: a text is one message, an empty text is no item."""
    if isinstance(input_, str):
        return [user_message(input_)] if input_ else []
    return [dict(item) for item in input_ or ()]


def kind_of(item: Mapping[str, Any]) -> str | None:
    """Return the type of an input item; messages and references may omit it. None if it is unknown."""
    kind = item.get("type")
    if kind is not None:
        return kind if isinstance(kind, str) else None
    if "role" in item or "content" in item:
        return "message"
    return "item_reference" if "id" in item else None


def user_message(text: str) -> Item:
    """Return the message for an input that is a text."""
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def replayed(output: Iterable[Mapping[str, Any]]) -> list[Item]:
    """Return the items of an answer, of any type, that are sent with the next turn."""
    return [dict(item) for item in output if isinstance(item.get("type"), str) and not _is_lost_reasoning(item)]


def _is_lost_reasoning(item: Mapping[str, Any]) -> bool:
    return item.get("type") == "reasoning" and not item.get("encrypted_content")


def _was_cut(item: Mapping[str, Any], answered: set[Any]) -> bool:
    is_call = item.get("type") in _ANSWERED_BY_CLIENTS
    return is_call and item.get("status") == "incomplete" and item.get("call_id") not in answered
