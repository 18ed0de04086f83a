"""A conversation as input items: what earlier turns were asked and answered, then what this one asks.

The provider stores nothing, so each turn of a chain is sent with everything before it. Nothing here knows where the
turns come from.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

Item = dict[str, Any]

REPLAYED_TYPES: Final = frozenset(
    {
        "additional_tools",
        "apply_patch_call",
        "apply_patch_call_output",
        "code_interpreter_call",
        "compaction",
        "compaction_trigger",
        "computer_call",
        "computer_call_output",
        "configuration_update",
        "custom_tool_call",
        "custom_tool_call_output",
        "file_search_call",
        "function_call",
        "function_call_output",
        "image_generation_call",
        "item_reference",
        "local_shell_call",
        "local_shell_call_output",
        "mcp_approval_request",
        "mcp_approval_response",
        "mcp_call",
        "mcp_list_tools",
        "message",
        "program",
        "program_output",
        "reasoning",
        "shell_call",
        "shell_call_output",
        "tool_search_call",
        "tool_search_output",
        "web_search_call",
    }
)
"""The items of an answer that are known as input as well. What is not would have the whole follow-up refused."""


@dataclass(frozen=True)
class Turn:
    """One response of a chain: what it was asked, and what it answered."""

    response_id: str
    input: Any
    output: Sequence[Mapping[str, Any]] = ()


def rebuild(turns: Iterable[Turn], input_: Any) -> list[Item]:
    """Every item of the `turns`, oldest first, then those of `input_`."""
    items: list[Item] = []
    for turn in turns:
        items += as_items(turn.input)
        items += replayed(turn.output)
    return items + as_items(input_)


def as_items(input_: Any) -> list[Item]:
    """A request's input as the items that it stands for: a text is one message, and an empty one is none."""
    if isinstance(input_, str):
        return [user_message(input_)] if input_ else []
    return [dict(item) for item in input_ or ()]


def user_message(text: str) -> Item:
    """What a text as input means."""
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def replayed(output: Iterable[Mapping[str, Any]]) -> list[Item]:
    """The items of an answer that the next turn is given.

    Reasoning goes on only where it is encrypted into the item: by its id alone nobody could look it up.
    """
    return [dict(item) for item in output if _is_replayed(item)]


def _is_replayed(item: Mapping[str, Any]) -> bool:
    kind = item.get("type")
    if kind == "reasoning":
        return bool(item.get("encrypted_content"))
    return kind in REPLAYED_TYPES
