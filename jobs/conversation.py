"""A conversation as input items: what earlier turns were asked and answered, then what this one asks.

The provider stores nothing, so each turn of a chain is sent with everything before it. Nothing here knows where the
turns come from.
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
    """One response of a chain: what it was asked, what it answered, and sealed what the former shows as `***`."""

    response_id: str
    input: Any
    output: Sequence[Mapping[str, Any]] = ()
    credentials: str | None = None


def rebuild(
    turns: Iterable[Turn], input_: Any, is_taken: Callable[[Mapping[str, Any]], bool] = lambda _item: True
) -> list[Item]:
    """Every item of the `turns`, oldest first, then those of `input_`; of the answers those that `is_taken`."""
    items: list[Item] = []
    for turn in turns:
        items += as_items(turn.input)
        items += (dict(item) for item in turn.output if isinstance(item.get("type"), str) and is_taken(item))
    return of_use(items + as_items(input_))


def of_use(items: Sequence[Item]) -> list[Item]:
    """The items less those that a provider which keeps nothing refuses, and with them the whole conversation.

    Those are reasoning that is not encrypted into its item, for by the id alone nobody can look it up; a call that was
    cut in the making, which nobody can answer; and reasoning that led to nothing, where a turn ended amid it.
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
    """Whether an item was made by the model, or by a tool that ran at the provider, and not by the client."""
    kind = kind_of(item) or ""
    if kind == "message":
        return item.get("role") == "assistant"
    return kind not in _OF_CLIENTS and not kind.endswith("_output")


def as_items(input_: Any) -> list[Item]:
    """A request's input as the items that it stands for: a text is one message, and an empty one is none."""
    if isinstance(input_, str):
        return [user_message(input_)] if input_ else []
    return [dict(item) for item in input_ or ()]


def kind_of(item: Mapping[str, Any]) -> str | None:
    """The type of an input item, which messages and references may leave out; None where nothing tells it."""
    kind = item.get("type")
    if kind is not None:
        return kind if isinstance(kind, str) else None
    if "role" in item or "content" in item:
        return "message"
    return "item_reference" if "id" in item else None


def user_message(text: str) -> Item:
    """What a text as input means."""
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def replayed(output: Iterable[Mapping[str, Any]]) -> list[Item]:
    """The items of an answer that the next turn is given, of whatever type they are."""
    return [dict(item) for item in output if isinstance(item.get("type"), str) and not _is_lost_reasoning(item)]


def _is_lost_reasoning(item: Mapping[str, Any]) -> bool:
    return item.get("type") == "reasoning" and not item.get("encrypted_content")


def _was_cut(item: Mapping[str, Any], answered: set[Any]) -> bool:
    is_call = item.get("type") in _ANSWERED_BY_CLIENTS
    return is_call and item.get("status") == "incomplete" and item.get("call_id") not in answered
